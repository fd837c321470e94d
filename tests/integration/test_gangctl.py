# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""gangctl drives real QEMUs: migrate, status, Ctrl-C."""

import json
import os
import signal
import subprocess

import pytest

from ganglib import gang
from ganglib.process import Process, product, wait_for

pytestmark = pytest.mark.link(200)


def waiting(bed, sources):
    """Destinations that nobody has told anything."""
    members = []
    for source in sources:
        destination = gang.destination_of(source, bed.hosts.b)
        bed.closers.append(destination.close)
        members.append(gang.Member(source, destination, gang.PORT + source.spec.index))
    return members


def gangctl(bed, gangds, members):
    plan = os.path.join(bed.rundir, "plan.json")
    with open(plan, "w") as f:
        json.dump({"gang": "web",
                   "source_coordinator": gangds[0].socket,
                   "destination_coordinator": gangds[1].socket,
                   "vms": [{"name": m.source.name, "source": m.source.ctl_path,
                            "destination": m.destination.ctl_path,
                            "uri": f"tcp:{bed.hosts.b.address}:{m.port}"} for m in members]}, f)
    process = Process([product("gangctl"), "migrate", "--json", "--plan", plan],
                      os.path.join(bed.rundir, "gangctl.log"), netns=bed.hosts.a.netns)
    bed.closers.append(process.end)
    return process


def test_gangctl_migrates_a_gang(bed):
    gangds = bed.gangds()
    members = waiting(bed, bed.guests(2))
    process = gangctl(bed, gangds, members)
    assert process.child.wait(120) == 0, process.output()
    gang.wait(members, 10)
    gang.check(members)
    result = json.loads(process.output().strip().splitlines()[-1])
    assert result
    gang.run_at_destination(members)


def test_inv6_ctrl_c_cancels_the_gang_and_leaves_every_vm_running(bed):
    gangds = bed.gangds()
    members = waiting(bed, bed.guests(2))
    process = gangctl(bed, gangds, members)
    wait_for(lambda: all(m.source.status() == "active" for m in members), 30, "the start")
    gang.wait_sending(members, 5)
    process.kill(signal.SIGINT)
    assert process.child.wait(60) == 130, process.output()
    for member in members:
        assert member.source.status() == "cancelled"
        assert member.source.run_state() == "running"
        member.source.wait_beats(2)


def test_gangctl_status_shows_the_gang(bed):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2), gangds, gang_id="web")
    gang.start(members, bed.hosts, gangds, gang_id="web")
    gang.wait_sending(members, 2)
    out = subprocess.run([product("gangctl"), "status", "--json", "--socket", gangds[0].socket],
                         check=True, capture_output=True, text=True, timeout=30).stdout
    assert "web" in out and all(m.source.name in out for m in members)
    json.loads(out)
    gang.wait(members, 120)
    gang.check(members)
