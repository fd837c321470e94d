# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""What cannot work is refused at once, with an error that says what to do, and
the guest goes on (invariant 6)."""

import pytest

from ganglib import gang
from ganglib.qmp import QMPError

URI = "tcp:192.0.2.2:4000"

# capability -> what else it needs to be settable
CONFLICTS = {
    "postcopy-ram": {}, "xbzrle": {}, "zero-copy-send": {"multifd": True}, "mapped-ram": {},
    "rdma-pin-all": {}, "x-colo": {}, "background-snapshot": {},
}


@pytest.mark.parametrize("capability", CONFLICTS)
def test_a_capability_that_cannot_go_along_is_named(bed, capability):
    gangds = bed.gangds()
    source, = bed.guests(1)
    source.qmp.capabilities(**CONFLICTS[capability], **{capability: True})
    with pytest.raises(QMPError) as refusal:
        source.cmd("gang-migrate", uri=URI, gang_id="gang", gang_socket=gangds[0].socket)
    # QEMU's own rules for capabilities may speak first; they name some more freely.
    word = {"postcopy-ram": "postcopy", "x-colo": "colo"}.get(capability, capability)
    assert word in refusal.value.desc.lower().replace("zero copy", "zero-copy-send")
    assert source.run_state() == "running"
    # As before: the settings that gang-migrate makes are taken back.
    assert source.cmd("query-migrate-parameters")["gang-id"] == ""
    source.wait_beats(1)
    source.qmp.capabilities(**{capability: False})
    members = bed.prepare([source], gangds)
    bed.migrate(members, gangds)


@pytest.mark.parametrize("values", [
    {"gang-id": "no spaces"}, {"gang-id": "x" * 65}, {"gang-socket": "/" + "x" * 108},
    {"gang-members": 0}, {"gang-members": 129}], ids=str)
def test_a_parameter_out_of_range_is_refused(bed, values):
    source, = bed.guests(1, beats=0)
    with pytest.raises(QMPError, match=next(iter(values))):
        source.cmd("migrate-set-parameters", **values)


def test_an_empty_gang_id_is_refused(bed):
    source, = bed.guests(1, beats=0)
    with pytest.raises(QMPError, match="gang-id"):
        source.cmd("gang-migrate", uri=URI, gang_id="")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_missing_coordinator_is_refused_at_both_ends(bed, side):
    source, = bed.guests(1)
    nowhere = bed.rundir + "/nobody.sock"
    if side == "source":
        with pytest.raises(QMPError) as refusal:
            source.cmd("gang-migrate", uri=URI, gang_id="gang", gang_socket=nowhere)
    else:
        destination = gang.destination_of(source, bed.hosts.b)
        bed.closers.append(destination.close)
        with pytest.raises(QMPError) as refusal:
            destination.cmd("gang-migrate-incoming", uri=URI, gang_id="gang", gang_socket=nowhere)
    assert nowhere in refusal.value.desc and "gangd" in refusal.value.desc
    source.wait_beats(1)


@pytest.mark.parametrize("kind", ["fork", "stock"])
def test_a_destination_without_a_gang_store_is_refused(bed, kind, stock):
    here, _ = bed.gangds()
    source, = bed.guests(1)
    destination = gang.destination_of(source, bed.hosts.b, stock if kind == "stock" else None)
    bed.closers.append(destination.close)
    gang.tune(destination, "none", gang.CHANNELS)
    destination.cmd("migrate-incoming", uri=URI, exit_on_error=False)
    source.qmp.parameters(multifd_channels=gang.CHANNELS)
    source.cmd("gang-migrate", uri=URI, gang_id="gang", gang_socket=here.socket)
    assert source.wait_migration(30, want=None) == "failed"
    assert "gang-migrate-incoming" in source.cmd("query-migrate")["error-desc"]
    source.wait_beats(1)


def test_a_confidential_guest_is_refused_at_both_ends(bed):
    """No such guest runs here: the machine is only told that it has one."""
    gangds = bed.gangds()
    source, = bed.guests(1)
    destination = gang.destination_of(source, bed.hosts.b)
    bed.closers.append(destination.close)
    for vm, daemon, command in ((source, gangds[0], "gang-migrate"),
                                (destination, gangds[1], "gang-migrate-incoming")):
        vm.cmd("object-add", qom_type="sev-guest", id="sev", cbitpos=47, reduced_phys_bits=1)
        vm.cmd("qom-set", path="/machine", property="confidential-guest-support",
               value="/objects/sev")
        with pytest.raises(QMPError, match="confidential guests.*sev-guest"):
            vm.cmd(command, uri=URI, gang_id="gang", gang_socket=daemon.socket)
    source.wait_beats(1)


def test_a_source_that_is_no_gang_member_is_refused(bed):
    _, there = bed.gangds()
    source, = bed.guests(1)
    destination = gang.destination_of(source, bed.hosts.b)
    bed.closers.append(destination.close)
    gang.tune(destination, "none", gang.CHANNELS)
    destination.cmd("gang-migrate-incoming", uri=URI, gang_id="gang", gang_socket=there.socket,
                    exit_on_error=False)
    gang.tune(source, "none", gang.CHANNELS)
    source.cmd("migrate", uri=URI)
    assert source.wait_migration(30, want=None) == "failed"
    source.wait_beats(1)
