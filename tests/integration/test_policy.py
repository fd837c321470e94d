# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Switchover policies: gangs whose VMs stop together, and gangs that leave the
source whole or not at all, whatever happens on the way (invariant 6)."""

import signal

import pytest

from ganglib import gang
from ganglib.process import wait_for

pytestmark = pytest.mark.link(400)
# Longer than a busy machine is slow
PATIENT = ("--ready-timeout", "120", "--stopped-timeout", "60")


def begin(bed, gangds, policy, count=2, pause=False, **kw):
    members = bed.prepare(bed.guests(count), gangds, **kw)
    for member in members:
        member.source.qmp.parameters(gang_policy=policy)
        member.source.qmp.capabilities(pause_before_switchover=pause)
    gang.start(members, bed.hosts, gangds)
    return members


def paused(member):
    wait_for(lambda: member.source.status() == "pre-switchover", 120,
             lambda: f"pre-switchover, {member.source.cmd('query-migrate')}")


def go_on(member):
    member.source.cmd("migrate-continue", state="pre-switchover")


def assert_all_arrived(members):
    gang.wait(members, 120)
    gang.check(members)
    gang.run_at_destination(members)


def assert_all_stayed(members, cancelled=()):
    """The error names the gang; no destination has run; each guest goes on."""
    gang.wait(members, 120)
    for member in members:
        if member in cancelled:
            assert member.status == "cancelled"
        else:
            assert member.status == "failed"
            assert "all-or-nothing" in member.info["error-desc"], member.info
        wait_for(lambda: member.source.run_state() == "running", 30, "the guest to go on")
        member.source.wait_beats(2)
        if member.destination.process.alive():
            assert member.destination.wait_migration(60, want=None) == "failed"
            # With -S one that has been started would be paused.
            assert member.destination.run_state() not in ("running", "paused")


def skew(members):
    """What each says when it stopped, and the last of them about all."""
    infos = [member.source.cmd("query-gang") for member in members]
    at = [info["stopped-at"] for info in infos]
    assert not any(info["late"] for info in infos)
    assert max(info["stopped-members"] for info in infos) == len(members)
    assert abs(max(info["skew"] for info in infos) - (max(at) - min(at))) <= 1  # rounding
    assert max(at) - min(at) < 2e6  # far from a round, or another's end; 0.1-1.2 ms measured
    return max(at) - min(at)


@pytest.mark.parametrize("pause", [False, pytest.param(True, marks=pytest.mark.long)])
def test_together_no_guest_stops_before_all_can(bed, pause):
    """One of them is held up: the other is near its end for long, and runs."""
    gangds = bed.gangds(*PATIENT)
    first, held = members = begin(bed, gangds, "together", pause=pause)
    held.source.qmp.parameters(max_bandwidth=1 << 20)
    wait_for(lambda: first.source.cmd("query-gang")["ready-members"] == 1, 60, "one to be ready")
    before = len(first.source.beats())
    wait_for(lambda: len(first.source.beats()) >= before + 2, 60, "the ready guest to run")
    assert first.source.status() == "active"
    assert first.source.cmd("query-gang")["stopped-members"] == 0
    held.source.qmp.parameters(max_bandwidth=1 << 40)
    if pause:
        for member in members:
            paused(member)
        for member in members:
            go_on(member)
    gang.wait(members, 120)
    print(f"skew {skew(members)} us")
    assert_all_arrived(members)


@pytest.mark.long
def test_together_a_guest_that_never_gets_ready_is_not_waited_for(bed):
    gangds = bed.gangds("--ready-timeout", "2")
    first, held = members = begin(bed, gangds, "together")
    held.source.qmp.parameters(max_bandwidth=1 << 20)
    gang.wait([first], 120)
    assert first.status == "completed"
    held.source.qmp.parameters(max_bandwidth=1 << 40)
    gang.wait([held], 120)
    info = held.source.cmd("query-gang")
    assert info["late"] and info["stopped-members"] == 2
    assert_all_arrived(members)


@pytest.mark.long
@pytest.mark.parametrize("whose", ["source", "destination"])
def test_inv4_together_a_killed_member_is_not_waited_for(bed, whose):
    gangds = bed.gangds(*PATIENT)
    victim, *others = begin(bed, gangds, "together", count=3)
    victim.source.qmp.parameters(max_bandwidth=1 << 20)
    wait_for(lambda: others[0].source.cmd("query-gang")["ready-members"] == 2, 60, "two ready")
    getattr(victim, whose).process.kill(signal.SIGKILL)
    assert_all_arrived(others)


@pytest.mark.long
@pytest.mark.parametrize("pause", [False, True])
def test_all_or_nothing_all_arrive(bed, pause):
    """No destination starts while one of the gang is in pre-switchover."""
    gangds = bed.gangds(*PATIENT)
    members = begin(bed, gangds, "all-or-nothing", count=3, pause=pause)
    if pause:
        for member in members:
            paused(member)
        for member in members[1:]:
            go_on(member)
        for member in members[1:]:
            wait_for(lambda: member.source.status() == "device", 60, "it to wait for the last")
            assert member.destination.status() == "active"
        go_on(members[0])
    gang.wait(members, 120)
    print(f"skew {skew(members)} us")
    assert_all_arrived(members)


def in_bulk(members):
    gang.wait_sending(members, 5)


def in_pre_switchover(members):
    for member in members:
        paused(member)


def while_the_others_are_prepared(members):
    in_pre_switchover(members)
    for member in members[1:]:
        go_on(member)
    for member in members[1:]:
        wait_for(lambda: member.source.status() == "device", 60, "it to wait for the last")


def destination_killed(_, victim):
    victim.destination.process.kill(signal.SIGKILL)


def cancelled(_, victim):
    victim.source.cmd("migrate_cancel")


@pytest.mark.parametrize("when, what", [
    (while_the_others_are_prepared, cancelled),
    pytest.param(in_bulk, cancelled, marks=pytest.mark.long),
    pytest.param(in_bulk, destination_killed, marks=pytest.mark.long),
    pytest.param(in_pre_switchover, cancelled, marks=pytest.mark.long),
    pytest.param(in_pre_switchover, destination_killed, marks=pytest.mark.long),
    pytest.param(while_the_others_are_prepared, destination_killed, marks=pytest.mark.long),
])
def test_inv6_all_or_nothing_one_failure_leaves_all_at_the_source(bed, when, what):
    gangds = bed.gangds(*PATIENT)
    members = begin(bed, gangds, "all-or-nothing", pause=True)
    when(members)
    what(members, members[0])
    if what is destination_killed:
        # Its source finds out when it sends, or at once; the others do not wait for that.
        if members[0].source.status() == "pre-switchover":
            members[0].source.cmd("migrate-continue", state="pre-switchover")
        gang.wait(members, 120)
        assert members[0].status == "failed"
        assert_all_stayed(members[1:])
        wait_for(lambda: members[0].source.run_state() == "running", 30, "the guest to go on")
        members[0].source.wait_beats(2)
    else:
        assert_all_stayed(members, members[:1])


@pytest.mark.long
def test_inv6_all_or_nothing_a_killed_source_leaves_the_others(bed):
    gangds = bed.gangds(*PATIENT)
    members = begin(bed, gangds, "all-or-nothing", count=3, pause=True)
    while_the_others_are_prepared(members)
    members[0].source.process.kill(signal.SIGKILL)
    assert_all_stayed(members[1:])


@pytest.mark.long
@pytest.mark.parametrize("side", [0, 1], ids=["source", "destination"])
def test_inv4_all_or_nothing_gangd_killed_all_end_on_one_side(bed, side):
    gangds = bed.gangds(*PATIENT)
    members = begin(bed, gangds, "all-or-nothing", count=3)
    gang.wait_sending(members, 5)
    gangds[side].process.kill(signal.SIGKILL)
    assert_all_arrived(members)


@pytest.mark.long
def test_inv4_all_or_nothing_a_source_killed_after_gangd_leaves_the_others(bed):
    """Nobody tells the others: its heart stands still."""
    gangds = bed.gangds(*PATIENT)
    members = begin(bed, gangds, "all-or-nothing", count=3, pause=True)
    in_pre_switchover(members)
    gangds[0].process.kill(signal.SIGKILL)
    members[0].source.process.kill(signal.SIGKILL)
    assert_all_stayed(members[1:])


@pytest.mark.long
def test_all_or_nothing_nobody_stands_still_for_longer_than_the_limit(bed):
    gangds = bed.gangds("--stopped-timeout", "2")
    members = begin(bed, gangds, "all-or-nothing", pause=True)
    while_the_others_are_prepared(members)
    assert_all_stayed(members)


@pytest.mark.long
def test_all_or_nothing_does_not_begin_without_a_member(bed):
    gangds = bed.gangds("--barrier-timeout", "2")
    members = bed.prepare(bed.guests(2), gangds)
    for member in members:
        member.source.qmp.parameters(gang_policy="all-or-nothing")
    gang.start(members, bed.hosts, gangds, count=3)
    assert_all_stayed(members)
    for member in members:
        assert "of its 3 members only 2 came" in member.info["error-desc"]


@pytest.mark.long
def test_all_or_nothing_members_that_stayed_can_move_later(bed):
    gangds = bed.gangds(*PATIENT)
    members = begin(bed, gangds, "all-or-nothing")
    gang.wait_sending(members, 5)
    members[0].source.cmd("migrate_cancel")
    assert_all_stayed(members, members[:1])
    for member in members:
        member.destination.close()
    again = bed.prepare([member.source for member in members], gangds, label="-again",
                        gang_id="again")
    gang.start(again, bed.hosts, gangds, gang_id="again")
    assert_all_arrived(again)
