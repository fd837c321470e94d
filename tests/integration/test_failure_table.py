# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The failure table (ganglib/failure_table.py): whatever fails, and whenever, each VM runs
at exactly one place afterwards, with the right memory."""

import json
import os
import signal
import sys

import pytest

from ganglib import gang
from ganglib.failure_table import CELLS, Cell, markdown, status
from ganglib.process import TOP, wait_for

sys.path.insert(0, os.path.join(TOP, "tests/bench"))

from gangbench import account  # noqa: E402

pytestmark = pytest.mark.link(200)

# What every run of the tests tries; the others are long.
SAMPLE = {("source QEMU", "killed", "deferred pages outstanding"),
          ("source gangd", "killed", "before scan"),
          ("link", "cut for good", "switchover turn")}


def cells():
    for component, action, phase, outcome in CELLS:
        name = f"{component}-{action}-{phase}".replace(" ", "_")
        marks = [] if (component, action, phase) in SAMPLE else [pytest.mark.long]
        yield pytest.param(component, action, phase, outcome, id=name, marks=marks)


@pytest.mark.parametrize("component, action, phase, outcome", cells())
def test_each_vm_runs_exactly_once(bed, component, action, phase, outcome):
    Cell(bed, component, action, phase).run(outcome)


def test_the_document_shows_the_table():
    with open(os.path.join(TOP, "docs/operations.md")) as f:
        text = f.read()
    assert markdown() in text, f"docs/operations.md should have:\n{markdown()}"


def test_restarted_gangds_pick_the_running_gang_up_again(bed):
    """Both ends at once, in mid-bulk."""
    gangds = list(bed.gangds())
    members = bed.prepare(bed.guests(2), gangds)
    for member in members:
        member.source.qmp.parameters(max_bandwidth=1 << 20)
    gang.start(members, bed.hosts, gangds)
    gang.wait_sending(members, 0.2)

    def gangs(daemon):
        return json.loads(status(daemon))["gangs"]
    before = [gangs(daemon)[0] for daemon in gangds]
    for i, host in enumerate((bed.hosts.a, bed.hosts.b)):
        gangds[i].process.kill(signal.SIGKILL)
        gangds[i].process.child.wait(10)
        os.unlink(gangds[i].socket)  # so that the new one's can be waited for
        gangds[i] = bed.gangd(host)
    for daemon, old in zip(gangds, before):
        wait_for(lambda: gangs(daemon) and len(gangs(daemon)[0]["members"]) == 2, 60,
                 lambda: f"the gang, has {gangs(daemon)}")
        new = gangs(daemon)[0]
        assert (new["gang"], new["role"]) == (old["gang"], old["role"])
        assert all(m["state"] == "alive" for m in new["members"])
    assert gangs(gangds[0])[0]["stores"][0]["store"] == before[0]["stores"][0]["store"]

    def references():
        return sum(m.source.cmd("query-gang")["referenced-pages"] for m in members)
    had = references()
    for member in members:
        member.source.qmp.parameters(max_bandwidth=1 << 40)
    gang.wait(members, 120)
    gang.check(members)
    assert references() > had
    gang.run_at_destination(members)
    for daemon in gangds:
        wait_for(lambda: not gangs(daemon), 60, "the gang to be forgotten")
    pids = [daemon.process.pid for daemon in gangds]
    pids += [member.destination.process.pid for member in members]
    wait_for(lambda: not account.shared_memory(pids), 60,
             lambda: f"memory to be given back: {account.shared_memory(pids)}")
