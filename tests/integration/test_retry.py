# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A gang that failed or was cancelled is tried again: what had arrived is not sent
again, and every member arrives bit-identical."""

import json
import subprocess

import pytest

from ganglib import gang
from ganglib.process import product, wait_for

pytestmark = pytest.mark.link(200)

SLOW = 4 << 20  # bytes a second of each member while a gang is to be cut
SLOWER = 1 << 20


def kept(gangd):
    out = subprocess.run([product("gangctl"), "status", "--json", "--socket", gangd.socket],
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)["kept"]


def wait_kept(gangd):
    return wait_for(lambda: kept(gangd), 60, "the store to be kept")


def begin(bed, gangds, sources, until, label=""):
    """A gang that has sent so many bytes; no member can complete."""
    members = bed.prepare(sources, gangds, label=label)
    for source in sources:
        source.qmp.parameters(max_bandwidth=SLOW)
        source.qmp.capabilities(pause_before_switchover=True)
    before = bed.hosts.wire_bytes()
    gang.start(members, bed.hosts, gangds)
    # Slower near the end: to look takes its time on a busy machine, and what is under way
    # when the gang is cut is lost.
    wait_for(lambda: bed.hosts.wire_bytes() - before >= 0.7 * until, 120, "the gang to send",
             poll=0.01)
    for source in sources:
        source.qmp.parameters(max_bandwidth=SLOWER)
    wait_for(lambda: bed.hosts.wire_bytes() - before >= until, 120, "the gang to send", poll=0.01)
    return members


def cancel(members):
    for member in members:
        member.source.cmd("migrate_cancel")
    for member in members:
        assert member.source.wait_migration(60, want=None) == "cancelled"
        wait_for(lambda: member.source.run_state() == "running", 60, "the guest to go on")


def end_destinations(bed, gangds, members):
    """Once they have said all; they are still there."""
    wait_kept(gangds[1])
    for member in members:
        assert member.destination.run_state() != "running"
        member.destination.close()
        member.source.qmp.parameters(max_bandwidth=1 << 40)
        member.source.qmp.capabilities(pause_before_switchover=False)


def again(bed, gangds, sources, label="-again"):
    members = bed.prepare(sources, gangds, label=label)
    result = bed.migrate(members, gangds)
    return members, result.wire_bytes


def whole_run(bed, gangds, count):
    """Bytes of a first run that nothing happens to."""
    members = bed.prepare(bed.guests(count), gangds)
    sent = bed.migrate(members, gangds).wire_bytes
    for member in members:
        member.source.close()
        member.destination.close()
    return sent


def cut_and_retry(bed, gangds, count, cut=0.8):
    first = whole_run(bed, gangds, count)
    members = begin(bed, gangds, bed.guests(count), cut * first)
    cancel(members)
    end_destinations(bed, gangds, members)
    members, sent = again(bed, gangds, [m.source for m in members])
    print(f"first run {first / 1e6:.1f} MB, retried after {cut:.0%}: {sent / 1e6:.1f} MB,"
          f" {sent / first:.3f}; {members[0].total_ms} ms")
    assert not kept(gangds[1])
    gang.run_at_destination(members)
    return sent / first


def test_a_gang_cut_at_four_fifths_sends_little_when_it_is_retried(bed):
    assert cut_and_retry(bed, bed.gangds(), 2) <= 0.30


@pytest.mark.long
def test_without_store_keep_a_retry_sends_all_again(bed):
    gangds = bed.gangds("--store-keep", "0")
    first = whole_run(bed, gangds, 2)
    members = begin(bed, gangds, bed.guests(2), 0.8 * first)
    cancel(members)
    for member in members:
        member.destination.wait_migration(60, want=None)
        member.destination.close()
        member.source.qmp.parameters(max_bandwidth=1 << 40)
        member.source.qmp.capabilities(pause_before_switchover=False)
    wait_for(lambda: not kept(gangds[1]), 20, "nothing to be kept")
    members, sent = again(bed, gangds, [m.source for m in members])
    assert sent >= 0.8 * first
    gang.run_at_destination(members)


@pytest.mark.long
def test_a_gang_whose_link_was_cut_is_retried(bed):
    """The destinations do not notice; who manages them ends them, and they save what
    has arrived."""
    gangds = bed.gangds()
    first = whole_run(bed, gangds, 2)
    members = begin(bed, gangds, bed.guests(2), 0.8 * first)
    bed.hosts.cut()
    for member in members:
        member.source.cmd("migrate_cancel")
    for member in members:
        member.destination.process.child.terminate()
        member.destination.process.child.wait(60)
    bed.hosts.cut(False)
    for member in members:
        assert member.source.wait_migration(60, want=None) in ("cancelled", "failed")
        wait_for(lambda: member.source.run_state() == "running", 60, "the guest to go on")
        member.source.qmp.parameters(max_bandwidth=1 << 40)
        member.source.qmp.capabilities(pause_before_switchover=False)
    wait_kept(gangds[1])
    members, sent = again(bed, gangds, [m.source for m in members])
    assert sent <= 0.35 * first
    gang.run_at_destination(members)


@pytest.mark.long
def test_guests_that_have_changed_arrive_when_they_are_retried_again_and_again(bed):
    gangds = bed.gangds()
    sources = bed.guests(3, "dirty")
    for attempt in range(4):
        members = begin(bed, gangds, sources, 10e6, label=f"-{attempt}")
        cancel(members)
        end_destinations(bed, gangds, members)
    members, _ = again(bed, gangds, sources)
    gang.run_at_destination(members)
