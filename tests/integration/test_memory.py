# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""What guest memory may be made of, and memory that a guest has given up: that
one is neither read nor sent, and never becomes a published page."""

import pytest

from ganglib import gang, oracle, ram, vm
from ganglib.process import wait_for

MB = 256
ZERO = bytes(oracle.PAGE)


@pytest.fixture
def huge_pages():
    """huge_pages(count): reserves them for the test, or skips it and says so."""
    reserved = []

    def reserve(count):
        try:
            reserved.append(ram.HugePages(count))
        except OSError as e:
            pytest.skip(f"no huge pages on this machine: {e}")
    yield reserve
    for pages in reserved:
        pages.close()


def made_of(bed, kinds):
    return [ram.single(kind, MB, bed.rundir) for kind in kinds]


def move(bed, sources, destinations, workload="idle"):
    """A gang, of each VM the kind of its memory at the source and at the destination."""
    gangds = bed.gangds()
    guests = bed.guests(len(sources), workload, memory=made_of(bed, sources))
    members = bed.prepare(guests, gangds, memory=made_of(bed, destinations))
    bed.migrate(members, gangds)
    assert sum(m.source.cmd("query-gang")["referenced-pages"] for m in members) > 0
    gang.run_at_destination(members)


@pytest.mark.long
def test_inv1_members_with_different_kinds_of_memory_share(bed):
    move(bed, ["anonymous", "file-private", "prealloc", "tmpfs"],
         ["file", "memfd", "anonymous-shared", "memfd-private"])


@pytest.mark.long
@pytest.mark.parametrize("kind", [k for k in ram.KINDS if "hugetlb" not in k])
def test_inv1_every_kind_of_memory_arrives(bed, kind):
    move(bed, [kind] * 2, [kind] * 2, "dirty")


def test_inv1_huge_pages_arrive(bed, huge_pages):
    huge_pages(3 * MB // 2)
    move(bed, ["hugetlb", "hugetlb-private"], ["hugetlb", "memfd"])


@pytest.mark.long
def test_inv1_huge_pages_that_are_written_arrive(bed, huge_pages):
    huge_pages(4 * MB // 2)
    move(bed, ["hugetlb", "memfd", "hugetlb-private"],
         ["hugetlb-private", "hugetlb", "memfd"], "dirty")


# Guests with devices of their own have no saved state: they boot.

def boot(bed, count, workload, ram=None, extra=(), append=""):
    guests = []
    for i in range(count):
        guests.append(vm.VM(vm.Spec(i, MB, workload), bed.rundir, bed.hosts.a,
                            memory=ram, extra=extra, append=append))
        bed.closers.append(guests[-1].close)
    for guest in guests:
        guest.wait_ready()
        guest.wait_beats(1)
    return guests


def finish(members, given_up=None):
    """As gang.check(), but pages that the guest gave up may differ: their number."""
    count = 0

    def may_differ(*page):
        nonlocal count
        count += 1
        return given_up(*page)
    for member in members:
        assert member.status == "completed", member.info
        member.destination.wait_migration(30)
        oracle.check_identical(member.source, member.destination, given_up and may_differ)
    return count


def numa(bed):
    """Several RAMBlocks, the second one larger than the first."""
    return ram.nodes([("memfd", MB * 3 // 8), ("anonymous", MB * 5 // 8)], bed.rundir)


@pytest.mark.long
def test_inv1_numa_nodes_arrive(bed):
    gangds = bed.gangds()
    members = bed.prepare(boot(bed, 2, "dirty", numa(bed)), gangds)
    bed.migrate(members, gangds)
    assert {"m0", "m1"} <= oracle.blocks(members[0].source).keys()
    gang.run_at_destination(members)


def with_virtio_mem(bed):
    return ["-m", f"{MB}M,maxmem=1G", *numa(bed),
            "-object", f"memory-backend-memfd,id=vmem,size={2 * MB}M,share=on",
            "-device", f"virtio-mem-pci,id=vmem0,memdev=vmem,requested-size={MB}M"]


def test_inv1_numa_nodes_arrive_and_discarded_memory_is_not_sent(bed):
    """Half of a virtio-mem device is plugged.  In the other half there is something:
    the same in both VMs, so that it would be published if anybody looked."""
    gangds = bed.gangds()
    guests = boot(bed, 2, "dirty", with_virtio_mem(bed), append="memhp_default_state=online_movable")
    left = bytes(range(256)) * (oracle.PAGE // 256)
    pages, begin = 512, (2 * MB << 20) - (8 << 20)
    for guest in guests:
        wait_for(lambda: guest.cmd("qom-get", path="/machine/peripheral/vmem0",
                                   property="size") == MB << 20, 120, "memory to be plugged")
        with open(ram.file_of(guest, 2 * MB), "r+b", buffering=0) as file:
            file.seek(begin)
            file.write(left * pages)
    members = bed.prepare(guests, gangds)
    gang.start(members, bed.hosts, gangds)
    gang.wait(members)
    for member in members:
        total = sum(length for _, length in oracle.blocks(member.source).values())
        assert member.source.cmd("query-gang")["scanned-pages"] <= (total - (MB << 20)) / oracle.PAGE
        assert ram.allocated(member.destination, 2 * MB) <= MB << 20

    def given_up(name, offset, here, there):
        return name.endswith("vmem") and offset >= begin and here == left and there == ZERO
    assert finish(members, given_up) == pages * len(members)
    gang.run_at_destination(members)


@pytest.mark.long
def test_pages_in_a_balloon_are_not_sent(bed):
    gangds = bed.gangds()
    guests = boot(bed, 2, "freed", extra=("-device", "virtio-balloon-pci,id=balloon"))
    small = MB * 5 // 8
    for guest in guests:
        guest.cmd("balloon", value=small << 20)
    for guest in guests:
        wait_for(lambda: guest.cmd("query-balloon")["actual"] == small << 20, 120,
                 lambda: f"the balloon, {guest.cmd('query-balloon')}")
    members = bed.prepare(guests, gangds)
    gang.start(members, bed.hosts, gangds)
    gang.wait(members)
    for member in members:
        assert ram.allocated(member.source, MB) <= (small + 8) << 20
        assert ram.allocated(member.destination, MB) <= (small + 8) << 20
        assert member.source.cmd("query-gang")["zero-pages"] >= (MB - small) << 8
    finish(members)
    gang.run_at_destination(members)


def test_hinted_pages_are_not_sent(bed):
    """Free page hints come while a gang waits for its last member."""
    gangds = bed.gangds("--barrier-timeout", "200")
    # Or Linux writes to each page that it is about to hint.
    guests = boot(bed, 2, "freed", append="init_on_alloc=0", extra=(
        "-object", "iothread,id=io0",
        "-device", "virtio-balloon-pci,id=balloon,free-page-hint=on,iothread=io0"))
    members = bed.prepare(guests, gangds)
    first, last = members

    def hinted():
        info = first.source.cmd("query-migrate")
        assert info["status"] not in gang.DONE, info
        ram = info.get("ram", {})
        return ram.get("remaining", 0) and ram["total"] - ram["remaining"] >= 16 << 20
    gang.start([first], bed.hosts, gangds, count=2)
    wait_for(hinted, 120, lambda: f"hints: {first.source.cmd('query-migrate')}")
    gang.start([last], bed.hosts, gangds, count=2)
    gang.wait(members)

    # What was not sent is zero at the destination, and no two of these pages are alike.
    def given_up(name, offset, here, there):
        return name == "ram" and there == ZERO
    assert finish(members, given_up) > 0
    gang.run_at_destination(members)
