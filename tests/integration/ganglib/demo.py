# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The demo: one gang, moved by stock QEMU's best mode and by gang migration.

Both runs restore the same guests from the same saved states, so they move the
same memory, and each finds its memory touched.  Bytes are those of the link's
interface counter."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time

from . import gang, memory, net, process, vm

TITLES = {"stock-multifd-zstd": "stock multifd+zstd", "gang": "gang"}


def arguments():
    def size(low):
        def parse(text):
            if int(text) < low:
                raise argparse.ArgumentTypeError(f"at least {low}")
            return int(text)
        return parse

    p = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    p.add_argument("--vms", type=size(1), default=4, metavar="N", help="guests (4)")
    p.add_argument("--memory", type=size(256), default=512, metavar="MIB", help="of each guest (512)")
    p.add_argument("--link", type=size(0), default=1000, metavar="MBIT",
                   help="rate of the link between the hosts (1000; 0: not shaped)")
    p.add_argument("--workload", default="idle", choices=["idle", "redis", "web", "dirty", "samewrite"],
                   help="what the guests do (idle)")
    p.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    return p.parse_args()


class Bars:
    """A progress bar per VM, redrawn in place on a terminal; elsewhere one
    line per VM at its end."""

    WIDTH = 28

    def __init__(self, members):
        self.names = [m.source.name for m in members]
        self.lines = {name: f"  {name}" for name in self.names}
        self.live = sys.stdout.isatty()
        self.best = dict.fromkeys(self.names, 0.0)
        if self.live:
            print("\n" * (len(self.names) - 1))

    def __call__(self, member, info):
        name, status, ram = member.source.name, info.get("status", "?"), info.get("ram", {})
        done = self.best[name]
        if status == "completed":
            done = 1.0
        elif ram.get("total"):
            done = max(done, 1 - ram["remaining"] / ram["total"])
        self.best[name] = done
        full = round(done * self.WIDTH)
        text = f"  {name} [{'#' * full}{'.' * (self.WIDTH - full)}] {done:4.0%}  {status:16}"
        if ram:
            text += (f" {ram['transferred'] / 1e6:7.1f} MB"
                     f"  round {ram['dirty-sync-count']}")
        if status == "completed":
            text += f"  downtime {info.get('downtime', 0)} ms"
        self.lines[name] = text
        if self.live:
            rows = "".join(f"\r\033[K{self.lines[n]}\n" for n in self.names)
            print(f"\033[{len(self.names)}A{rows}", end="", flush=True)
        elif status in gang.DONE:
            print(text, flush=True)


def one_run(args, mode, rundir, hosts, resources):
    """Restores the guests on A, moves them to B, compares their RAM."""
    stock = mode != "gang"
    qemu = process.product("qemu-system-x86_64-stock") if stock else None
    label = "-stock" if stock else "-gang"
    print(f"\n{TITLES[mode]}: restoring {args.vms} guests on host A", flush=True)
    sources = []
    for i in range(args.vms):
        guest = vm.restore(vm.Spec(i, args.memory, args.workload), rundir, hosts.a, qemu, label)
        resources.append(guest)
        sources.append(guest)
    for guest in sources:
        guest.wait_beats(1)
    gangds = None
    if not stock:
        gangds = tuple(gang.Gangd(rundir, host) for host in (hosts.a, hosts.b))
        resources.extend(gangds)
    members = gang.prepare(sources, hosts, gangds, qemu=qemu, label=label)
    resources.extend(m.destination for m in members)
    memory.touch_memory(memory.wanted_mib(args.vms, args.memory))
    result = gang.migrate(members, hosts, gangds, progress=Bars(members), timeout=900)
    gang.run_at_destination(members)
    return result


def table(runs):
    stock, ours = runs
    rows = [
        ("bytes on the wire", "MB", 1e-6, [r.wire_bytes for r in runs]),
        ("total time", "s", 1, [r.total_s for r in runs]),
        ("worst downtime", "ms", 1, [max(m.downtime_ms for m in r.members) for r in runs]),
    ]
    for i, member in enumerate(ours.members):
        rows.append((f"downtime of {member.source.name}", "ms", 1,
                     [stock.members[i].downtime_ms, member.downtime_ms]))
    print(f"\n{'':24} {TITLES[stock.mode]:>20} {TITLES[ours.mode]:>14} {'ratio':>8}")
    for name, unit, factor, (a, b) in rows:
        ratio = f"{b / a:8.2f}" if a else f"{'-':>8}"
        digits = 0 if unit == "ms" else 2 if unit == "s" else 1
        print(f"{name:24} {a * factor:17.{digits}f} {unit:2} {b * factor:11.{digits}f} {unit:2}"
              f" {ratio}")


def main():
    args = arguments()
    process.become_subreaper()
    rundir = tempfile.mkdtemp(prefix="gang-demo-")  # short: socket paths have a limit
    resources, runs, alive = [], [], 0
    link = f"{args.link} Mbit/s" if args.link else "no limit"
    print(f"{args.vms} guests of {args.memory} MiB ({args.workload}), link: {link}", flush=True)
    try:
        for i in range(args.vms):  # boots what was not saved by an earlier run
            spec = vm.Spec(i, args.memory, args.workload)
            t0 = time.monotonic()
            vm.state_file(spec)
            if time.monotonic() - t0 > 1:
                print(f"  {spec.name} booted and saved in {time.monotonic() - t0:.0f} s", flush=True)
        with net.Hosts(args.link) as hosts:
            for mode in TITLES:
                runs.append(one_run(args, mode, rundir, hosts, resources))
                if mode == "gang":
                    alive = sum(m.destination.run_state() == "running"
                                for m in runs[-1].members)
                for thing in reversed(resources):
                    thing.close()
                resources.clear()
    finally:
        for thing in reversed(resources):
            thing.close()
        shutil.rmtree(rundir, ignore_errors=True)
    table(runs)
    same = all(m.ram_identical for run in runs for m in run.members)
    print(f"\nRAM of {args.vms} guests identical at hand-over: {'yes' if same else 'NO'}")
    print(f"{alive} of {args.vms} guests go on running at host B")
    if args.json:
        figures = {"runs": [{
            "mode": run.mode, "wire_bytes": run.wire_bytes, "total_s": round(run.total_s, 3),
            "vms": [{"name": m.source.name, "downtime_ms": m.downtime_ms,
                     "ram_identical": m.ram_identical} for m in run.members],
        } for run in runs], "guests_alive_at_destination": alive}
        with open(args.json, "w") as f:
            json.dump(figures, f, indent=2)
            f.write("\n")
    return 0 if same and alive == args.vms else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (AssertionError, RuntimeError, TimeoutError, OSError,
            subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
