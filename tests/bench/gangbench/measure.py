# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""One run: restore the saved guests, migrate them, compare; its row of figures."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from ganglib import gang, net, oracle, vm
from ganglib.memory import touch_memory, wanted_mib
from ganglib.process import BUILD, Process, product, wait_for
from ganglib.qmp import QMPError

from . import pulse
from .account import Peak, cpu_seconds, vcpu_seconds
from .modes import MODES, prepare

SETTLE_S = 1.0  # after the guests go on, before anything is looked at
BEFORE_S = 2.0  # then this long, to know how fast the guests are
TAIL_S = 1.0    # and at the destination, so that an outage has an end
COUNTS = ("payload-bytes", "metadata-bytes", "delta-bytes", "takeovers")  # of query-gang
BENCH_TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))


class Failed(Exception):
    """The run gave no figures; logs: where its logs are."""

    def __init__(self, reason, logs):
        super().__init__(reason)
        self.logs = logs


def spec(workload, index, memory_mb):
    return vm.Spec(index, memory_mb, workload, pulse_ms=pulse.PERIOD_MS)


def patience(case, memory_mb):
    """Seconds after which migrations that have not ended never will: four times
    what the guests' whole memory takes on the link, and two minutes."""
    raw_mbit = case.n * memory_mb * 1.048576 * 8
    return 120 + 4 * raw_mbit / (case.link_mbit or 2000)


class Client:
    """The client outside, listening to all guests."""

    def __init__(self, members, rundir):
        self.out = os.path.join(rundir, "pulse.json")
        names = []
        for m in members:
            names += [m.source.name, m.source.pulse_path, m.destination.pulse_path]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([BENCH_TOP, *filter(None, sys.path)]))
        self.process = Process([sys.executable, "-m", "gangbench.pulse", self.out, *names],
                               self.out + ".log", env=env)

        def listening():
            if not self.process.alive():
                raise RuntimeError(f"the client outside ended: {self.process.output()}")
            return "listening" in self.process.output()
        wait_for(listening, 20, "the client outside")

    def records(self):
        self.process.end()
        with open(self.out) as f:
            return json.load(f)

    def close(self):
        self.process.end()


def _set_up(run, memory_mb, hosts, rundir, resources):
    """Guests restored and stopped on A, destinations listening on B."""
    mode, sources, gangds = MODES[run.case.mode], [], None
    for i in range(run.case.n):
        guest = vm.restore(spec(run.case.workload, i, memory_mb), rundir, hosts.a, mode.qemu(),
                           run=False)
        resources.append(guest)
        sources.append(guest)
    if mode.is_gang:
        gangds = tuple(gang.Gangd(rundir, host) for host in (hosts.a, hosts.b))
        resources.extend(gangds)
    members, unknown = prepare(mode, sources, hosts, gangds, hold=not run.outside)
    resources.extend(m.destination for m in members)
    return members, gangds, unknown


def _gang_figures(members, peak):
    """What query-gang says, added up over the gang where it is a count of a member."""
    infos = [m.source.cmd("query-gang") for m in members]
    ends = infos + [m.destination.cmd("query-gang") for m in members]
    counts = {}
    for key in infos[0]:
        if key.endswith("-pages") or key in COUNTS:
            counts[key.replace("-", "_")] = sum(info[key] for info in infos)
    return {
        "store_bytes": max(e["store-slots-used"] for e in ends) * oracle.PAGE,
        "directory_bytes": max(e["directory-bytes"] for e in infos),
        "mirror_bytes": max(e.get("mirror-bytes", peak.most.get("gang-mirror", 0)) for e in infos),
        "shared_memory_bytes": dict(sorted(peak.most.items())),
        "gang": counts,
        "compression_level": [info.get("compression-level") for info in infos],
    }


def _no_gang_figures():
    return {"store_bytes": 0, "directory_bytes": 0, "mirror_bytes": 0, "shared_memory_bytes": {}}


def _migrate(run, memory_mb, members, gangds, hosts):
    """Between the two looks at the counters: the migrations, and nothing else."""
    source_pids = [m.source.process.pid for m in members]
    destination_pids = [m.destination.process.pid for m in members]
    if gangds:
        source_pids.append(gangds[0].process.pid)
        destination_pids.append(gangds[1].process.pid)
    peak = Peak(source_pids + destination_pids if gangds else [])
    next_look = [0.0]

    def progress(_member, _info):
        if gangds and time.monotonic() > next_look[0]:
            peak.look()
            next_look[0] = time.monotonic() + 0.5

    def counters():
        return (hosts.wire_bytes(), cpu_seconds(source_pids), cpu_seconds(destination_pids),
                sum(vcpu_seconds(m.source) for m in members))

    before, start = counters(), time.monotonic()
    gang.start(members, hosts, gangds)
    gang.wait(members, patience(run.case, memory_mb), progress, poll=0.02)
    end = time.monotonic()
    wire, cpu_source, cpu_destination, vcpu = (b - a for a, b in zip(before, counters()))
    if gangds:
        peak.look()
    figures = {
        "wire_bytes": wire, "total_s": round(end - start, 3),
        "downtime_ms": [m.downtime_ms for m in members],
        "cpu_src_s": round(cpu_source, 2), "cpu_dst_s": round(cpu_destination, 2),
        "cpu_guest_s": round(vcpu, 2),  # the part of cpu_src_s that ran the guests
        "rounds": [m.info.get("ram", {}).get("dirty-sync-count", 0) for m in members],
        "qemu_total_ms": [m.total_ms for m in members],
    }
    bad = [m for m in members if m.status != "completed"]
    if bad:
        raise RuntimeError("; ".join(
            f"{m.source.name} {m.status}: {m.info.get('error-desc', '')}" for m in bad))
    return figures, start, end, peak


def _estimate(members, link_mbit):
    """What gangctl expects of the gang, whose guests run on."""
    command = [product("gangctl"), "estimate", "--json"]
    if link_mbit:
        command += ["--bandwidth", str(link_mbit * 1000000 // 8)]
    for m in members:
        command += ["--vm", f"name={m.source.name},source={m.source.ctl_path}"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    return json.loads(out)


def _run_on(members):
    """The guests go on by themselves at B; none may have found damage."""
    beats = [len(m.destination.beats()) for m in members]
    end = time.monotonic() + TAIL_S
    for member, had in zip(members, beats):
        wait_for(lambda: len(member.destination.beats()) > had, 30,
                 f"a heartbeat of {member.source.name} at the destination")
        member.source.check_guest()
        member.destination.check_guest()
    time.sleep(max(0, end - time.monotonic()))


def _outage(record, start, end):
    times = record["source"]["pulses"] + record["destination"]["pulses"]
    return pulse.longest_gap(times, start, end + TAIL_S)


def _row(run, memory_mb, rundir, resources):
    hosts = net.Hosts(run.case.link_mbit)
    resources.append(hosts)
    members, gangds, unknown = _set_up(run, memory_mb, hosts, rundir, resources)
    # Here: the guests stand still, and what is touched last is what is taken first.
    touch_s = touch_memory(wanted_mib(run.case.n, memory_mb))
    client = Client(members, rundir)
    resources.append(client)
    for member in members:
        member.source.cmd("cont")
    time.sleep(SETTLE_S)
    steady = time.monotonic()
    time.sleep(BEFORE_S)
    told = _estimate(members, run.case.link_mbit) if run.estimate else None
    figures, start, end, peak = _migrate(run, memory_mb, members, gangds, hosts)
    if run.outside:
        _run_on(members)
    else:
        try:
            gang.check(members)
        except oracle.RAMDiffers as error:
            print(f"RAM DIFFERS: {run}: {error}", file=sys.stderr, flush=True)
        figures["ram_identical"] = all(m.ram_identical for m in members)
    figures |= _gang_figures(members, peak) if gangds else _no_gang_figures()
    records = client.records()
    records = [records[m.source.name] for m in members]
    figures["slowdown"] = [
        pulse.slowdown(r["source"], steady, start, r["source"]["pulses"][-1]) for r in records]
    figures["gap_before_ms"] = [pulse.longest_gap(r["source"]["pulses"], steady, start)
                                for r in records]
    if run.outside:
        figures["outage_ms"] = [_outage(r, start, end) for r in records]
        figures["handover_ms"] = [pulse.handover(r) for r in records]
    if told:
        figures["estimate"] = told
    figures["touch_s"] = round(touch_s, 2)
    if unknown:
        figures["not_set"] = unknown
    return figures


def _ended(resources):
    """The last words of processes that should have lived."""
    found = ""
    for thing in resources:
        process = getattr(thing, "process", None)
        if process and not process.alive():
            found += f"; {os.path.basename(process.log)}: {process.output().strip()[-300:]}"
    return found


def measure(run, memory_mb):
    """The row of a run.  Raises Failed, with the run's logs kept."""
    rundir = tempfile.mkdtemp(prefix="gang-bench-")  # short: socket paths have a limit
    resources, failure = [], None
    try:
        case = run.case
        return {"workload": case.workload, "mode": case.mode, "n": case.n,
                "link_mbit": case.link_mbit, "memory_mb": memory_mb,
                "repetition": run.repetition, **_row(run, memory_mb, rundir, resources)}
    except (RuntimeError, AssertionError, OSError, IndexError, ValueError, QMPError,
            subprocess.SubprocessError) as error:
        failure, ended = error, _ended(resources)
    finally:
        for thing in reversed(resources):
            thing.close()
        if failure:
            kept = os.path.join(BUILD, "bench/failed", os.path.basename(rundir))
            os.makedirs(os.path.dirname(kept), exist_ok=True)
            shutil.move(rundir, kept)
        else:
            shutil.rmtree(rundir, ignore_errors=True)
    raise Failed(f"{type(failure).__name__}: {str(failure)[:600]}{ended}", kept) from failure
