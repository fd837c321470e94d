# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Invariant 7: off means off.  Without gang parameters the fork migrates to and
from stock QEMU, and management software sees parameters it can set back."""

import pytest

from ganglib import gang

METHODS = {"plain": None, "multifd": "none", "multifd-zstd": "zstd"}
# Guests that stand still are the default run's, of ones that write all pairs as well.
BUSY = [pytest.param(w, marks=pytest.mark.long) for w in ("dirty", "redis", "samewrite")]


def move(bed, source, qemu, method, port=gang.PORT, label=""):
    """One migration without a gang; the oracle looks; the guest goes on."""
    destination = gang.destination_of(source, bed.hosts.b, qemu, label)
    bed.closers.append(destination.close)
    for vm in (source, destination):
        if METHODS[method]:
            gang.tune(vm, METHODS[method], gang.CHANNELS)
        else:
            vm.qmp.parameters(max_bandwidth=1 << 40)
    member = gang.Member(source, destination, port)
    destination.cmd("migrate-incoming", uri=f"tcp:{bed.hosts.b.address}:{port}")
    bed.migrate([member])
    gang.run_at_destination([member])
    return destination


@pytest.mark.parametrize("workload", ["idle", *BUSY])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["fork-to-stock", "stock-to-fork"])
def test_inv7_the_fork_and_stock_qemu_migrate_to_each_other(bed, stock, way, method, workload):
    source, = bed.guests(1, workload, qemu=stock if way == "stock-to-fork" else None)
    move(bed, source, stock if way == "fork-to-stock" else None, method)


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_inv7_parameters_of_a_gang_alone_change_nothing(bed, stock, method):
    """gang-id and its like say nothing as long as the method is another."""
    source, = bed.guests(1)
    source.qmp.parameters(gang_id="web", gang_socket="/nowhere", gang_members=7)
    move(bed, source, stock, method)


@pytest.mark.long
def test_inv7_what_came_with_a_gang_goes_on_to_stock_qemu(bed, stock):
    """And from there into a gang again: nothing of the gang stays in a VM."""
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2), gangds)
    bed.migrate(members, gangds)
    gang.run_at_destination(members)
    out = []
    for member in members:  # to another QEMU of the same host
        out.append(move(bed, member.destination, stock, "multifd-zstd",
                        member.port + 20, "-stock"))
        out[-1] = move(bed, out[-1], None, "multifd", member.port + 40, "-fork")
    again = bed.prepare(out, gangds, back=True, label="-back")
    bed.migrate(again, gangds, back=True)
    gang.run_at_destination(again)


def test_inv7_parameters_are_reported_and_can_be_set_back(bed):
    """libvirt restores exactly what was reported."""
    source, = bed.guests(1, beats=0)
    before = source.cmd("query-migrate-parameters")
    assert before["gang-id"] == "" and before["gang-socket"] == ""
    assert before["multifd-compression"] == "none"
    source.cmd("migrate-set-parameters", gang_id="web", gang_socket="/run/x.sock", gang_members=3,
               gang_max_bandwidth=5, gang_priority=2, gang_patience=4, gang_stuck="last")
    now = source.cmd("query-migrate-parameters")
    assert (now["gang-id"], now["gang-socket"], now["gang-members"]) == ("web", "/run/x.sock", 3)
    assert (now["gang-max-bandwidth"], now["gang-priority"], now["gang-patience"],
            now["gang-stuck"]) == (5, 2, 4, "last")
    settable = {k: v for k, v in before.items() if k != "block-bitmap-mapping"}
    source.cmd("migrate-set-parameters", **settable)
    assert source.cmd("query-migrate-parameters") == before


def test_inv7_a_gang_can_be_driven_by_parameters_alone(bed):
    """As management software does it: capabilities, parameters, migrate."""
    gangds = bed.gangds()
    sources = bed.guests(2)
    members = []
    for i, source in enumerate(sources):
        destination = gang.destination_of(source, bed.hosts.b)
        bed.closers.append(destination.close)
        for vm, daemon in ((source, gangds[0]), (destination, gangds[1])):
            gang.tune(vm, "gang", gang.CHANNELS)
            vm.qmp.parameters(gang_id="web", gang_socket=daemon.socket, gang_members=2)
        destination.cmd("migrate-incoming", uri=f"tcp:{bed.hosts.b.address}:{gang.PORT + i}")
        members.append(gang.Member(source, destination, gang.PORT + i))
    bed.migrate(members)  # "migrate", not "gang-migrate"
    assert all(source.cmd("query-gang")["joined"] == 2 for source in sources)
    gang.run_at_destination(members)
