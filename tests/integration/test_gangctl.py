# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""gangctl drives real QEMUs: migrate, status, Ctrl-C."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from ganglib import gang, vm
from ganglib.process import Process, product, wait_for

pytestmark = pytest.mark.link(200)


def waiting(bed, sources, label=""):
    """Destinations that nobody has told anything."""
    members = []
    for source in sources:
        destination = gang.destination_of(source, bed.hosts.b, label=label)
        bed.closers.append(destination.close)
        members.append(gang.Member(source, destination, gang.PORT + source.spec.index))
    return members


def gangctl(bed, gangds, members, *options):
    plan = os.path.join(bed.rundir, "plan.json")
    with open(plan, "w") as f:
        json.dump({"gang": "web",
                   "source_coordinator": gangds[0].socket,
                   "destination_coordinator": gangds[1].socket,
                   "vms": [{"name": m.source.name, "source": m.source.ctl_path,
                            "destination": m.destination.ctl_path,
                            "uri": f"tcp:{bed.hosts.b.address}:{m.port}"} for m in members]}, f)
    process = Process([product("gangctl"), "migrate", "--json", "--plan", plan, *options],
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


def test_gangctl_again_after_ctrl_c_sends_what_is_missing(bed):
    """With destinations that were started anew, as after any failure."""
    gangds, sources = bed.gangds(), bed.guests(2)
    whole = estimate(vm_options(sources))["expected_bytes"]
    before = bed.hosts.wire_bytes()
    members = waiting(bed, sources)
    process = gangctl(bed, gangds, members, "--gang-max-bandwidth", "4M")
    wait_for(lambda: bed.hosts.wire_bytes() - before > 0.7 * whole, 120, "the gang to send", poll=0.01)
    process.kill(signal.SIGINT)
    assert process.child.wait(60) == 130, process.output()
    wait_for(lambda: status_of(gangds[1])["kept"], 60, "the store to be kept")
    for member in members:
        member.destination.close()
    before = bed.hosts.wire_bytes()
    members = waiting(bed, sources, label="-again")
    process = gangctl(bed, gangds, members)
    assert process.child.wait(120) == 0, process.output()
    gang.wait(members, 10)
    gang.check(members)
    sent = bed.hosts.wire_bytes() - before
    print(f"{sent / 1e6:.1f} MB of {whole / 1e6:.1f}")
    assert sent < 0.6 * whole
    assert not status_of(gangds[1])["kept"]
    gang.run_at_destination(members)


def status_of(gangd):
    out = subprocess.run([product("gangctl"), "status", "--json", "--socket", gangd.socket],
                         check=True, capture_output=True, text=True, timeout=30).stdout
    return json.loads(out)


def test_gangctl_status_shows_the_gang(bed):
    gangds = bed.gangds()
    members = bed.prepare(bed.guests(2), gangds, gang_id="web")
    gang.start(members, bed.hosts, gangds, gang_id="web")
    gang.wait_sending(members, 2)
    out = json.dumps(status_of(gangds[0]))
    assert "web" in out and all(m.source.name in out for m in members)
    gang.wait(members, 120)
    gang.check(members)


def estimate(gangctl_args):
    out = subprocess.run([product("gangctl"), "estimate", "--json", *gangctl_args], check=True,
                         capture_output=True, text=True, timeout=120).stdout
    return json.loads(out)


def vm_options(vms):
    return [word for vm in vms for word in ("--vm", f"name={vm.name},source={vm.ctl_path}")]


def allocated(vm):
    """Bytes of guest memory that the kernel holds."""
    return sum(os.stat(f"/proc/{vm.process.pid}/fd/{fd}").st_blocks * 512
               for fd in os.listdir(f"/proc/{vm.process.pid}/fd")
               if "memfd:memory-backend" in os.readlink(f"/proc/{vm.process.pid}/fd/{fd}"))


@pytest.mark.link(1000)
def test_estimate_is_near_what_the_migration_sends(bed):
    """Of paused guests, so that nothing but the estimate makes the difference."""
    sources = bed.guests(2)
    for source in sources:
        source.cmd("stop")
    before = [allocated(source) for source in sources]
    told = estimate(vm_options(sources) + ["--bandwidth", "119M"])
    assert [allocated(source) for source in sources] == before
    assert all(source.run_state() == "paused" for source in sources)
    gangds = bed.gangds()
    members = bed.prepare(sources, gangds)
    result = bed.migrate(members, gangds)
    infos = [member.source.cmd("query-gang") for member in members]
    assert abs(told["expected_bytes"] / result.wire_bytes - 1) < 0.10, (told, result.wire_bytes)
    scanned = 4096 * sum(info["scanned-pages"] for info in infos)
    equal = 4096 * sum(info["scan-duplicate-pages"] for info in infos)
    assert abs(told["nonzero_bytes"] - scanned) < scanned / 100
    assert abs(told["distinct_bytes"] - (scanned - equal)) < scanned / 100
    assert told["duplicate_across_bytes"] > told["nonzero_bytes"] / 10
    assert told["destination_bytes"] == told["ram_bytes"] + told["store_bytes"]


def test_estimate_of_running_guests_of_a_sample_leaves_them_running(bed):
    sources = bed.guests(2, "dirty")
    told = estimate(vm_options(sources) + ["--sample-pages", "8000"])
    assert told["sampled"] < 0.9
    assert told["dirty_rate"] > 1 << 20 and "converges" not in told
    assert told["expected_bytes"] > told["first_round_bytes"]
    assert 0 < told["expected_bytes"] < told["nonzero_bytes"]
    for source in sources:
        assert source.cmd("query-gang-estimate")["status"] == "none"
        source.wait_beats(1)
    # A twentieth of what they write in a second is carried in one.
    less = estimate(vm_options(sources) + ["--sample-pages", "8000", "--bandwidth",
                                           str(int(told["dirty_rate"] / 20))])
    assert not less["converges"]
    more = estimate(vm_options(sources) + ["--sample-pages", "8000", "--bandwidth", "1G"])
    assert more["converges"] and more["estimated_ms"] < less["estimated_ms"]


@pytest.mark.link(500)
def test_progress_of_busy_guests_never_goes_back(bed):
    metrics = os.path.join(bed.rundir, "metrics.sock")
    gangds = (bed.gangd(bed.hosts.a, "--metrics", metrics), bed.gangd(bed.hosts.b))
    members = waiting(bed, bed.guests(2, "dirty"))
    process = gangctl(bed, gangds, members)
    ratios = []
    while process.alive():  # gangctl's own time limit, and this test's, bound it
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(metrics)
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = sock.makefile().read()
        ratios += [float(x) for x in re.findall(r"gang_progress_ratio{gang=\"web\".*} (.*)", text)]
        time.sleep(0.1)
    assert process.child.wait(10) == 0, process.output()
    events = [json.loads(line) for line in process.output().splitlines()]
    for who in [m.source.name for m in members] + [None]:
        percents = [e["percent"] for e in events
                    if e.get("event") in ("progress", "gang") and e.get("vm") == who]
        assert percents == sorted(percents) and percents[-1] == 100, (who, percents)
        assert all(p < 100 for p in percents[:-1]) or len(percents) < 2
        saved = [e["saved_bytes"] for e in events
                 if e.get("event") in ("progress", "gang") and e.get("vm") == who]
        assert saved == sorted(saved), (who, saved)
    assert ratios and ratios == sorted(ratios), ratios
    for member in members:
        info = member.source.cmd("query-gang")
        assert info["percent"] == 100 and info["round"] >= 2 and info["saved-bytes"] > 0, info
        assert info["sent-bytes"] >= info["payload-bytes"], info
    gang.wait(members, 10)
    gang.check(members)
    gang.run_at_destination(members)


def test_dry_run_finds_the_smaller_machine_and_starts_nothing(bed):
    gangds = bed.gangds()
    sources = bed.guests(2)
    members = waiting(bed, sources)
    members[1].destination.close()
    small = dataclasses.replace(sources[1].spec, memory_mb=128)
    members[1].destination = vm.VM(small, bed.rundir, bed.hosts.b, incoming=True)
    bed.closers.append(members[1].destination.close)
    process = gangctl(bed, gangds, members, "--dry-run")
    assert process.child.wait(60) == 1
    assert "vm1 (destination): it has 128.0 MiB of RAM, its source 256.0 MiB" in process.output()
    for member in members:
        assert member.source.status() == "none" or member.source.run_state() == "running"
        assert member.destination.run_state() == "inmigrate"
    process = gangctl(bed, gangds, members[:1], "--dry-run")
    assert process.child.wait(60) == 0, process.output()
    assert json.loads(process.output().strip().splitlines()[-1]) == {"result": "ready"}
    assert members[0].destination.run_state() == "inmigrate"
