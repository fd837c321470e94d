# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Gangs that something happens to: the members it does not concern arrive
bit-identical, and no source VM is lost (invariants 2 to 6 and 8)."""

import signal

import pytest

from ganglib import gang, oracle
from ganglib.process import wait_for

pytestmark = pytest.mark.link(200)  # a gang of two takes some seconds


def begin(bed, gangds, count=2, workload="idle", **kw):
    """A gang in the middle of its migration."""
    members = bed.prepare(bed.guests(count, workload), gangds, **kw)
    gang.start(members, bed.hosts, gangds)
    gang.wait_sending(members, 5)
    return members


def finish(members):
    gang.wait(members, 120)
    gang.check(members)
    gang.run_at_destination(members)


def assert_runs_at_source(member):
    """Invariant 6."""
    assert member.source.run_state() == "running"
    member.source.wait_beats(2)


@pytest.mark.parametrize("side", [0, 1], ids=["source", "destination"])
def test_inv4_gangd_killed_stops_no_migration(bed, side):
    gangds = bed.gangds()
    members = begin(bed, gangds)
    gangds[side].process.kill(signal.SIGKILL)
    finish(members)


def test_inv4_a_killed_source_harms_no_other_member(bed):
    gangds = bed.gangds()
    victim, other = begin(bed, gangds)
    victim.source.process.kill(signal.SIGKILL)
    finish([other])


def test_inv4_inv6_a_killed_destination_harms_no_other_member(bed):
    gangds = bed.gangds()
    victim, other = begin(bed, gangds)
    victim.destination.process.kill(signal.SIGKILL)
    assert victim.source.wait_migration(60, want=None) == "failed"
    assert_runs_at_source(victim)
    finish([other])


def test_inv6_a_cancelled_member_stays_at_the_source(bed):
    gangds = bed.gangds()
    victim, other = begin(bed, gangds)
    victim.source.cmd("migrate_cancel")
    assert victim.source.wait_migration(60, want=None) == "cancelled"
    assert_runs_at_source(victim)
    finish([other])


def test_inv6_a_cancelled_member_can_migrate_later(bed):
    gangds = bed.gangds()
    victim, other = begin(bed, gangds)
    victim.source.cmd("migrate_cancel")
    victim.source.wait_migration(60, want=None)
    finish([other])
    victim.destination.close()
    again = bed.prepare([victim.source], gangds, label="-again", gang_id="later")
    bed.migrate(again, gangds, gang_id="later")
    gang.run_at_destination(again)


def test_inv2_a_stalled_member_blocks_no_other(bed):
    gangds = bed.gangds()
    victim, other = begin(bed, gangds)
    victim.source.process.kill(signal.SIGSTOP)
    try:
        gang.wait([other], 120)
        gang.check([other])
    finally:
        victim.source.process.kill(signal.SIGCONT)
    finish([victim])


def test_members_with_other_destination_hosts_share_nothing(bed):
    """Two coordinators at B, so two stores; one gang id at A."""
    here, there = bed.gangds()
    elsewhere = bed.gangd(bed.hosts.b, label="-other")
    sources = bed.guests(2)
    # Whole pages only: what a VM's pages have in common with each other is its own.
    first = bed.prepare(sources[:1], (here, there), compression="none", dedup="page")
    second = bed.prepare(sources[1:], (here, elsewhere), compression="none", dedup="page")
    result = bed.migrate(first + second, (here, there))
    apart = sum(oracle.count_pages([source]).distinct for source in sources)
    assert result.wire_bytes >= apart * oracle.PAGE
    gang.run_at_destination(first + second)


def test_inv8_a_full_store_only_means_fewer_references(bed):
    gangds = bed.gangds("--store-size", str(16 << 20))
    members = bed.prepare(bed.guests(2), gangds)
    bed.migrate(members, gangds)
    info = [member.source.cmd("query-gang") for member in members]
    assert sum(i["store-full-pages"] for i in info) > 0
    assert all(i["store-slots-used"] <= i["store-slots"] <= 4096 for i in info)
    gang.run_at_destination(members)


def test_inv8_the_directory_takes_at_most_one_and_a_half_percent(bed):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2), gangds)
    bed.migrate(members, gangds)
    ram = sum(member.source.spec.memory_mb << 20 for member in members)
    assert 0 < members[0].source.cmd("query-gang")["directory-bytes"] <= 0.015 * ram


def test_a_missing_member_is_not_waited_for_longer_than_the_timeout(bed):
    gangds = bed.gangds("--barrier-timeout", "2")
    members = bed.prepare(bed.guests(2), gangds)
    gang.start(members, bed.hosts, gangds, count=3)
    gang.wait(members, 60)
    gang.check(members)
    assert members[0].source.cmd("query-gang")["missing"] == 1
    gang.run_at_destination(members)


@pytest.mark.parametrize("offset", [2, 14, 23, 30, 33, 41, 60, "cut"])
def test_inv3_inv5_inv6_a_damaged_packet_fails_its_member_only(bed, offset):
    """Magic, lengths, number, digest, page count, descriptions: one bit each."""
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2), gangds)
    forwarder = bed.tamper(members[0], 12, offset)
    gang.start(members, bed.hosts, gangds)
    victim, other = members
    assert victim.source.wait_migration(120, want=None) == "failed"
    assert "tampered" in forwarder.output()
    assert_runs_at_source(victim)
    assert victim.destination.process.alive()  # it says why, it does not crash
    assert victim.destination.run_state() != "running"
    finish([other])


@pytest.mark.parametrize("how, nth", [("cut", 30), ("end", 5), ("end", 60), ("stall", 20)])
def test_inv6_a_lost_channel_leaves_no_end_waiting(bed, how, nth):
    """Source and destination each wait for all their channels to be in sync,
    and one of these is no more."""
    gangds = bed.gangds()
    member, = members = bed.prepare(bed.guests(1, "dirty"), gangds, channels=8,
                                    compression="none", dedup="page")
    forwarder = bed.tamper(member, nth, how)
    gang.start(members, bed.hosts, gangds)
    assert member.source.wait_migration(60, want=None) == "failed"
    assert "tampered" in forwarder.output()
    assert_runs_at_source(member)
    assert member.destination.wait_migration(30, want=None) == "failed"
    for vm in (member.source, member.destination):  # "failed" is said before it has ended
        wait_for(lambda: not vm.cmd("query-migrationthreads"), 30,
                 lambda: f"the end of {vm.cmd('query-migrationthreads')}")
