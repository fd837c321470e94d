# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The gang's hash: who chooses it, who refuses another, and that every page of a
gang with the cryptographic one arrives."""

import pytest

from ganglib import gang
from ganglib.qmp import QMPError

URI = "tcp:192.0.2.2:4000"


def hashes(members):
    return [vm.cmd("query-gang")["hash"] for m in members for vm in (m.source, m.destination)]


def total(members, what):
    return sum(m.source.cmd("query-gang")[what] for m in members)


def listen(destination, gangd, uri=URI, **arguments):
    gang.tune(destination, "gang", gang.CHANNELS)
    destination.cmd("gang-migrate-incoming", uri=uri, gang_id="gang", gang_socket=gangd.socket,
                    exit_on_error=False, **arguments)


@pytest.mark.parametrize("dedup", ["page", "delta"])
def test_inv1_a_sha256_gang_arrives_identical(bed, dedup):
    """Configured in the destination's gangd; the sources learn it."""
    gangds = (bed.gangd(bed.hosts.a), bed.gangd(bed.hosts.b, "--hash", "sha256"))
    members = bed.prepare(bed.guests(2, "dirty"), gangds, dedup=dedup)
    bed.migrate(members, gangds)
    assert hashes(members) == ["sha256"] * 4
    assert total(members, "referenced-pages") > 0
    similar = total(members, "patched-pages") + total(members, "delta-pages")
    assert (similar > 0) == (dedup == "delta")
    gang.run_at_destination(members)


def test_a_hash_that_the_gang_does_not_have_is_refused_at_both_ends(bed):
    gangds = bed.gangds()
    first, second = bed.guests(2)
    there = []
    for source in (first, second):
        there.append(gang.destination_of(source, bed.hosts.b))
        bed.closers.append(there[-1].close)
    # The first one decides, whatever gangd is configured with.
    listen(there[0], gangds[1], gang_hash="sha256")
    assert there[0].cmd("query-gang")["hash"] == "sha256"
    with pytest.raises(QMPError, match="has the hash sha256, not xxh3-128"):
        listen(there[1], gangds[1], uri="tcp:192.0.2.2:4001", gang_hash="xxh3-128")
    listen(there[1], gangds[1], uri="tcp:192.0.2.2:4001")
    assert there[1].cmd("query-gang")["hash"] == "sha256"

    # A source that was told to ask for another takes no less.
    gang.tune(first, "none", gang.CHANNELS)
    first.cmd("gang-migrate", uri=URI, gang_id="gang", gang_socket=gangds[0].socket,
              gang_hash="xxh3-128")
    assert first.wait_migration(30, want=None) == "failed"
    assert "has the hash sha256" in first.cmd("query-migrate")["error-desc"]
    first.wait_beats(1)

    # It asked once: a later migrate by parameters alone takes what there is.
    there[0].close()
    again = gang.destination_of(first, bed.hosts.b, label="again")
    bed.closers.append(again.close)
    listen(again, gangds[1])
    first.qmp.parameters(multifd_compression="gang", multifd_channels=gang.CHANNELS,
                         gang_id="gang", gang_socket=gangds[0].socket, gang_members=1)
    first.qmp.capabilities(multifd=True, return_path=True)
    first.cmd("migrate", uri=URI)
    first.wait_migration(60)
    gang.check([gang.Member(first, again, 4000, status="completed")])

    # That was the first one's affair.
    second.qmp.parameters(multifd_channels=gang.CHANNELS)
    second.cmd("gang-migrate", uri="tcp:192.0.2.2:4001", gang_id="gang",
               gang_socket=gangds[0].socket, gang_hash="sha256")
    second.wait_migration(60)
    gang.check([gang.Member(second, there[1], 4001, status="completed")])
