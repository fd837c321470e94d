# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Ends that do not fit together: another protocol version, a stock QEMU at one end.
docs/wire-format.md: refused, at once, and the source runs on (invariant 6)."""

import pytest

from ganglib import gang
from ganglib.process import wait_for

OURS = 1  # protocol and format version
LOWER, HIGHER = OURS - 1, OURS + 1


def ends_at_source(member, timeout=60):
    """The migration has failed; the source's words for it."""
    assert member.source.wait_migration(timeout, want=None) == "failed"
    assert member.source.run_state() == "running"
    member.source.wait_beats(2)
    return member.source.cmd("query-migrate").get("error-desc", "")


@pytest.mark.parametrize("version", [HIGHER, pytest.param(LOWER, marks=pytest.mark.long)])
def test_a_source_refuses_another_protocol_version(bed, version):
    """As a destination of the last or the next version would greet."""
    gangds = bed.gangds()
    member, = members = bed.prepare(bed.guests(1), gangds)
    forwarder = bed.tamper(member, 1, f"greeting={version}")
    gang.start(members, bed.hosts, gangds)
    said = ends_at_source(member)
    assert "tampered" in forwarder.output()
    assert f"protocol version {version}, this QEMU version {OURS}" in said, said
    # Nothing was sent that the destination could have taken.
    assert member.source.cmd("query-gang")["payload-bytes"] == 0


@pytest.mark.parametrize("version", [LOWER, pytest.param(HIGHER, marks=pytest.mark.long)])
def test_a_destination_refuses_packets_of_another_version(bed, version):
    """As a source of the last or the next version would send."""
    gangds = bed.gangds()
    member, = members = bed.prepare(bed.guests(1), gangds)
    forwarder = bed.tamper(member, 1, f"format={version}")
    gang.start(members, bed.hosts, gangds)
    ends_at_source(member)
    assert "tampered" in forwarder.output()
    assert member.destination.wait_migration(30, want=None) == "failed"
    said = member.destination.cmd("query-migrate")["error-desc"]
    assert f"gang packet of format version {version}" in said, said
    assert member.destination.process.alive()
    assert member.destination.run_state() != "running"


@pytest.mark.long
def test_a_refused_member_can_move_alone_at_once(bed, stock):
    """What an administrator does whose other host is no gang host yet."""
    gangds = bed.gangds()
    source, = bed.guests(1)
    plain = gang.destination_of(source, bed.hosts.b, stock, label="-refuses")
    bed.closers.append(plain.close)
    gang.tune(plain, "none", gang.CHANNELS)
    plain.cmd("migrate-incoming", uri=f"tcp:{bed.hosts.b.address}:{gang.PORT + 50}",
              exit_on_error=False)
    refused = gang.Member(source, plain, gang.PORT + 50)
    source.qmp.parameters(multifd_channels=gang.CHANNELS)
    gang.start([refused], bed.hosts, gangds)
    assert "gang-migrate-incoming" in ends_at_source(refused)
    members = bed.prepare([source], qemu=stock)
    bed.migrate(members)
    gang.run_at_destination(members)


@pytest.mark.long
def test_a_stock_source_and_a_gang_destination_part_without_harm(bed, stock):
    _, there = bed.gangds()
    source, = bed.guests(1, qemu=stock)
    destination = gang.destination_of(source, bed.hosts.b)
    bed.closers.append(destination.close)
    gang.tune(destination, "none", gang.CHANNELS)
    uri = f"tcp:{bed.hosts.b.address}:{gang.PORT}"
    destination.cmd("gang-migrate-incoming", uri=uri, gang_id="gang", gang_socket=there.socket,
                    exit_on_error=False)
    gang.tune(source, "none", gang.CHANNELS)
    source.cmd("migrate", uri=uri)
    ends_at_source(gang.Member(source, destination, gang.PORT))
    assert destination.process.alive()
    assert destination.run_state() != "running"
    wait_for(lambda: destination.status() == "failed", 30, "the destination to give up")
