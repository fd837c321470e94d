# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""When members of a gang send: one bandwidth, turns, order, and a VM that does
not converge.  Nothing here depends on how fast the machine is: what is asserted
of time is that a limit was kept to, which a slow machine does all the more."""

import json
import subprocess
import time

import pytest

from ganglib import gang, process
from ganglib.process import wait_for

MB = 1_000_000


def gangctl(*arguments):
    return subprocess.run([process.product("gangctl"), *arguments], capture_output=True, text=True,
                          timeout=60, check=False)


def status(gangd):
    answer = gangctl("status", "--json", "--socket", gangd.socket)
    assert answer.returncode == 0, answer
    gangs = json.loads(answer.stdout)["gangs"]
    return gangs[0] if gangs else {}


def parameters(members, **values):
    for member in members:
        member.source.qmp.parameters(**values)


def transferred(members):
    infos = [m.source.cmd("query-migrate") for m in members]
    return sum(info.get("ram", {}).get("transferred", 0) for info in infos)


def finish(members):
    gang.wait(members, 120)
    gang.check(members)


def set_order(gangd, *what):
    said = gangctl("set", "--gang", "gang", *what, "--socket", gangd.socket)
    assert said.returncode == 0, said.stderr


def test_one_bandwidth_for_all_is_kept_to_and_changed_while_they_run(bed):
    """Set at one VM, it binds all; changed at another one; lifted by gangctl."""
    limit = 8 * MB
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2, "idle"), gangds)
    parameters(members[:1], gang_max_bandwidth=limit)
    gang.start(members, bed.hosts, gangds)
    gang.wait_sending(members, 0.5)
    assert [m.source.cmd("query-gang")["max-bandwidth"] for m in members] == [limit, limit]
    assert status(gangds[0])["max-bandwidth"] == limit
    t0, before = time.monotonic(), transferred(members)
    time.sleep(2)
    sent, took = transferred(members) - before, time.monotonic() - t0
    # A credit of 0.2 s each, and a packet of each channel that was under way.
    assert sent <= limit * (took + 0.8) + 4 * MB, (sent, took)
    assert all(m.source.cmd("query-migrate")["status"] == "active" for m in members)
    parameters(members[1:], gang_max_bandwidth=MB)
    assert members[0].source.cmd("query-gang")["max-bandwidth"] == MB
    set_order(gangds[0], "--max-bandwidth", "0")
    finish(members)


def sent_by(member):
    return member.source.cmd("query-migrate").get("ram", {}).get("transferred", 0)


def test_priority_decides_who_is_in_the_bulk_phase_first(bed):
    """Of three, the one that joins last has the highest priority."""
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(3), gangds)
    parameters(members[2:], gang_priority=9)
    set_order(gangds[0], "--bulk-members", "1", "--max-bandwidth", "2M")
    gang.start(members, bed.hosts, gangds)
    gang.wait_sending(members[2:], 1)
    assert max(sent_by(m) for m in members[:2]) < 100_000
    assert status(gangds[0])["bulk-members"] == 1
    # A dead member frees its place, here to the one that joined before the other.
    members[2].source.process.kill()
    gang.wait_sending([joined_first(gangds, members[:2])], 1)
    set_order(gangds[0], "--max-bandwidth", "0")
    finish(members[:2])


def joined_first(gangds, members):
    order = [member["member"] for member in status(gangds[0])["members"]]
    return min(members, key=lambda member: order.index(member.source.name))


def start_busy(bed, rate, patience):
    """One whose guest writes 6 MB/s, where what it may send is of that order."""
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(1, "dirty"), gangds, compression="none", dedup="page")
    parameters(members, downtime_limit=1, gang_patience=patience, gang_stuck="fail",
               gang_max_bandwidth=rate)
    gang.start(members, bed.hosts, gangds)
    return members[0]


def check_given_up(member):
    assert member.status == "failed", member.info
    assert "gang-patience" in member.info["error-desc"]
    assert member.source.run_state() == "running"
    assert "cpu-throttle-percentage" not in member.source.cmd("query-migrate")
    member.source.wait_beats(2)


def test_a_vm_that_does_not_converge_is_given_up(bed):
    """It runs on at the source, and says why."""
    member = start_busy(bed, 20 * MB, 1)
    gang.wait([member], 150)
    check_given_up(member)


@pytest.mark.long
def test_a_vm_that_does_not_converge_is_throttled_before_it_is_given_up(bed):
    throttled = []
    member = start_busy(bed, 4 * MB, 2)
    gang.wait([member], 300,
              progress=lambda _, info: throttled.append(info.get("cpu-throttle-percentage", 0)))
    check_given_up(member)
    assert max(throttled) > 0


@pytest.mark.parametrize("turns", [True, pytest.param(False, marks=pytest.mark.long)])
def test_busy_members_take_turns_unless_there_are_none(bed, turns):
    gangds = bed.gangds(*([] if turns else ["--turn-limit", "0"]))
    members = bed.prepare(bed.guests(2, "dirty"), gangds)
    parameters(members, downtime_limit=10)
    gang.start(members, bed.hosts, gangds)
    finish(members)
    taken = [m.source.cmd("query-gang")["turns"] for m in members]
    assert min(taken) >= 1 if turns else taken == [0, 0], taken
    gang.run_at_destination(members)


@pytest.mark.long
def test_a_stuck_member_goes_last_without_holding_the_others(bed):
    """It waits, unthrottled, while the other one, whose own limit is low, is on its way."""
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(1, "dirty") + bed.guests(2, first=1), gangds,
                          compression="none", dedup="page")
    busy, slow = members
    parameters([busy], downtime_limit=1, gang_patience=1, gang_stuck="last",
               gang_max_bandwidth=20 * MB)
    parameters([slow], max_bandwidth=MB)
    gang.start(members, bed.hosts, gangds)
    waits = "the stuck one to wait"
    wait_for(lambda: still(busy), 180, waits, poll=0.5)
    assert busy.source.cmd("query-gang")["percent"] < 95  # it has hardly come nearer
    assert "cpu-throttle-percentage" not in busy.source.cmd("query-migrate")
    assert slow.source.cmd("query-migrate")["status"] == "active"
    parameters([busy], downtime_limit=300)
    set_order(gangds[0], "--max-bandwidth", "0")
    parameters([slow], max_bandwidth=1 << 40)
    finish(members)
    assert busy.total_ms > slow.total_ms
    gang.run_at_destination(members)


def still(member):
    """Sends nothing for a second, though its guest writes."""
    before = sent_by(member)
    time.sleep(1)
    return member.source.cmd("query-gang")["round"] >= 2 and sent_by(member) == before


@pytest.mark.long
@pytest.mark.link(100)
@pytest.mark.parametrize("how", ["turns", "no turns", "stock"])
def test_guests_that_write_more_than_their_share_of_the_link_converge_in_turns(bed, stock, how):
    """Four guests of which each writes half of what the link carries.  Side by side none
    gets there in ten looks, with stock QEMU and multifd neither; in turns each does."""
    qemu, gangds = None, None
    if how == "stock":
        qemu = stock
    else:
        gangds = bed.gangds(*([] if how == "turns" else ["--turn-limit", "0"]))
    members = bed.prepare(bed.guests(4, "dirty", qemu=qemu), gangds, qemu=qemu, compression="none",
                          dedup="page")
    parameters(members, downtime_limit=100)
    if how == "stock":
        for member in members:
            for end in (member.source, member.destination):
                end.qmp.parameters(multifd_compression="none")
    gang.start(members, bed.hosts, gangds)
    if how == "turns":
        gang.wait(members, 300)
        gang.check(members)
        gang.run_at_destination(members)
        return
    rounds = {}

    def ten_looks():
        for member in members:
            info = member.source.cmd("query-migrate")
            assert info["status"] in ("setup", "active"), (member.source.name, info)
            rounds[member.source.name] = info.get("ram", {}).get("dirty-sync-count", 0)
        return min(rounds.values()) >= 10
    wait_for(ten_looks, 400, lambda: f"ten looks: {rounds}", poll=0.5)
