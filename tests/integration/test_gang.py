# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Gangs that nothing happens to: every member arrives bit-identical
(invariant 1; migrate() asks the oracle for every member) and goes on."""

import glob
import os

import pytest

from ganglib import gang, oracle
from ganglib.process import wait_for

WORKLOADS = ["idle", "redis", "web", "dirty"]


def query(members):
    return [member.source.cmd("query-gang") for member in members]


def total(members, what):
    return sum(info[what] for info in query(members))


def check_rounds(members):
    """Each looked at what its guest had written at least once between the first
    look and the one after the stop; or all of it had fallen into the downtime."""
    rounds = {m.source.name: m.info["ram"]["dirty-sync-count"] for m in members}
    assert min(rounds.values()) >= 3, rounds


def test_the_oracle_sees_one_changed_byte(bed, stock):
    """A test that cannot fail is a defect: this one is about the oracle."""
    members = bed.prepare(bed.guests(1, qemu=stock), qemu=stock)
    bed.migrate(members)
    member = members[0]
    address, length = oracle.blocks(member.destination)["ram"]
    at = length // 2 + 77
    with open(f"/proc/{member.destination.process.pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(address + at)
        byte = mem.read(1)
        mem.seek(address + at)
        mem.write(bytes([byte[0] ^ 1]))
    with pytest.raises(oracle.RAMDiffers, match=f"{at:#x}"):
        oracle.check_identical(member.source, member.destination)


@pytest.mark.link(1000)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_inv1_gang_of_two_is_identical_with_every_workload(bed, workload):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2, workload), gangds)
    bed.migrate(members, gangds)
    assert total(members, "referenced-pages") > 0
    check_rounds(members)
    gang.run_at_destination(members)


def test_inv1_pages_rewritten_with_the_same_contents_in_all_vms_at_once(bed):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2, "samewrite"), gangds)
    bed.migrate(members, gangds)
    gang.run_at_destination(members)


def let_go(pids):
    """Nobody has memory of a gang mapped, or open, any more."""
    for pid in pids:
        with open(f"/proc/{pid}/maps", encoding="ascii") as maps:
            if "memfd:gang-" in maps.read():
                return False
        for fd in glob.glob(f"/proc/{pid}/fd/*"):
            try:
                if "memfd:gang-" in os.readlink(fd):
                    return False
            except FileNotFoundError:
                pass
    return True


@pytest.mark.long
@pytest.mark.link(1000)
def test_vms_that_may_share_with_themselves_only_each_send_all_they_have(bed):
    """intra-vm-only: with compression off, each sends its own distinct pages.  And
    nobody keeps what was shared."""
    gangds = bed.gangds("--intra-vm-only")
    sources = bed.guests(2)
    members = bed.prepare(sources, gangds, compression="none", dedup="page")
    result = bed.migrate(members, gangds)
    alone = sum(oracle.count_pages([source]).distinct for source in sources)
    assert alone > 1.2 * oracle.count_pages(sources).distinct, "these guests have nothing in common"
    assert result.wire_bytes >= alone * oracle.PAGE
    assert total(members, "referenced-pages") > 0  # inside each
    everybody = [vm.process.pid for m in members for vm in (m.source, m.destination)]
    everybody += [gangd.process.pid for gangd in gangds]
    wait_for(lambda: let_go(everybody), 20, "the end of what the gang shared")


def test_gang_of_one_is_a_plain_migration(bed):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(1), gangds)
    bed.migrate(members, gangds)
    gang.run_at_destination(members)


@pytest.mark.link(1000)
def test_each_distinct_page_of_a_gang_of_four_crosses_the_wire_once(bed):
    """With compression off: at most 1.10 times the distinct non-zero pages."""
    gangds = bed.gangds()
    sources = bed.guests(4)
    members = bed.prepare(sources, gangds, compression="none", dedup="page")
    result = bed.migrate(members, gangds)
    pages = oracle.count_pages(sources)
    assert result.wire_bytes <= 1.10 * pages.distinct * oracle.PAGE
    check_rounds(members)
    gang.run_at_destination(members)


@pytest.mark.parametrize("channels", [1, 4])
def test_inv1_other_numbers_of_channels(bed, channels):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2, "samewrite"), gangds, channels=channels)
    bed.migrate(members, gangds)
    gang.run_at_destination(members)


def test_a_gang_moves_there_and_back(bed):
    """A -> B -> A: the second gang has a directory and a store of its own."""
    gangds = bed.gangds()
    there = bed.prepare(bed.guests(2, "dirty"), gangds)
    bed.migrate(there, gangds)
    gang.run_at_destination(there)
    again = bed.prepare([m.destination for m in there], gangds, back=True, label="-back",
                        gang_id="gang-back")
    bed.migrate(again, gangds, back=True, gang_id="gang-back")
    assert total(again, "referenced-pages") > 0
    gang.run_at_destination(again)


def test_two_gangs_one_after_the_other_with_the_same_id(bed):
    gangds = bed.gangds()
    first = bed.guests(2)
    for label in ("-1", "-2"):
        members = bed.prepare(first, gangds, label=label)
        bed.migrate(members, gangds)
        gang.run_at_destination(members)
        first = bed.guests(2, "web")


# Where the link is fast, auto looks for no similar pages: it gets a slow one here.
SLOW = pytest.mark.link(200)


@pytest.mark.parametrize("dedup, compression", [
    ("page", "zstd"), ("subpage", "none"), ("delta", "none"),
    pytest.param("subpage", "auto", marks=SLOW), pytest.param("delta", "auto", marks=SLOW)])
def test_inv1_every_way_to_code_a_page_arrives(bed, dedup, compression):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2, "dirty"), gangds, compression=compression, dedup=dedup)
    bed.migrate(members, gangds)
    patched, delta = total(members, "patched-pages"), total(members, "delta-pages")
    assert (patched + delta > 0) == (dedup != "page")
    assert delta == 0 or dedup == "delta"
    gang.run_at_destination(members)


def test_inv1_what_auto_makes_of_a_fast_link_arrives(bed):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2, "dirty"), gangds, compression="auto")
    bed.migrate(members, gangds)
    assert total(members, "referenced-pages") > 0
    gang.run_at_destination(members)


def test_similar_pages_cost_less_than_whole_ones(bed):
    gangds = bed.gangds()
    sent = {}
    for dedup in ("page", "delta"):
        members = bed.prepare(bed.guests(2), gangds, dedup=dedup, label="-" + dedup)
        sent[dedup] = bed.migrate(members, gangds).wire_bytes
        gang.run_at_destination(members)
    assert sent["delta"] < sent["page"]


def allocated(vm):
    """Bytes that the guest's memory takes from this machine."""
    for path in glob.glob(f"/proc/{vm.process.pid}/fd/*"):
        if "memfd:" in os.readlink(path) and os.stat(path).st_size == vm.spec.memory_mb << 20:
            return os.stat(path).st_blocks * 512
    raise AssertionError("the guest's memory is no file")


def test_memory_that_a_guest_never_had_is_allocated_at_neither_end(bed):
    """A drained host may have none to give."""
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2, memory_mb=512), gangds)
    before = [allocated(member.source) for member in members]
    assert max(before) < 488 << 20  # or the test could not fail
    gang.start(members, bed.hosts, gangds)
    gang.wait(members)
    for member, size in zip(members, before):  # the oracle touches all of it
        assert allocated(member.destination) < size + (4 << 20)
        # Holes that begin in the middle of a packet are not looked for.
        assert allocated(member.source) < size + (16 << 20)
    gang.check(members)
    gang.run_at_destination(members)


def test_a_vm_that_comes_when_the_others_have_left_shares_nothing_and_arrives(bed):
    """The store outlives the first one's gang at the source, because the second one's
    destination waits; no slot of it may be filled again."""
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2), gangds)
    for member in members:
        gang.start([member], bed.hosts, gangds)
        gang.wait([member], 120)
    gang.check(members)
    assert query(members)[1]["published-pages"] == 0
    gang.run_at_destination(members)
