# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""scripts/bench: measures the matrix, keeps the figures, draws the page."""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import time

from ganglib import process, vm
from ganglib.memory import available_mib

from . import figures as store
from . import floors, markdown, matrix, page, tables
from .measure import Failed, measure, spec

RAM_PART = 0.9  # of what is free
ROOM = 2.3      # guests are there twice, and the store once, which holds a part of them


def say(text):
    print(text, file=sys.stderr, flush=True)


def clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def one_of(known, convert=str):
    """A comma-separated list of known values."""
    def parse(text):
        values = [part.strip() for part in text.split(",") if part.strip()]
        try:
            values = [convert(value) for value in values]
        except ValueError:
            raise argparse.ArgumentTypeError(f"numbers are wanted, not {text}") from None
        for value in values:
            if known and value not in known:
                raise argparse.ArgumentTypeError(
                    f"{value} is not one of {', '.join(map(str, known))}")
        return list(dict.fromkeys(values))
    return parse


def at_least(low):
    def parse(text):
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"at least {low}")
        return int(text)
    return parse


def sizes(text):
    values = one_of((), int)(text)
    if not values or min(values) < 1 or max(values) > 64:
        raise argparse.ArgumentTypeError("gang sizes are 1 to 64")
    return values


def links(text):
    values = one_of((), int)(text)
    if not values or min(values) < 0:
        raise argparse.ArgumentTypeError("links are Mbit/s, 0: not shaped")
    return values


DESCRIPTION = """\
Moves gangs of identical guests by every mode of stock QEMU and of the fork, and
compares bytes, time, downtime and CPU.  Without a choice of axes it measures every
workload, mode and link with 4 guests, and every mode and size with idle guests at
1000 Mbit/s.  With one it measures the product of the axes given, those not given
being: all workloads, all modes, 4 guests, 1000 Mbit/s."""


def arguments(argv=None):
    p = argparse.ArgumentParser(prog="scripts/bench", description=DESCRIPTION,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    axes = p.add_argument_group("what is measured")
    axes.add_argument("--workloads", type=one_of(matrix.WORKLOADS), metavar="A,B",
                      help=",".join(matrix.WORKLOADS))
    axes.add_argument("--modes", type=one_of(matrix.MODES), metavar="A,B",
                      help=",".join(matrix.MODES))
    axes.add_argument("--sizes", type=sizes, metavar="N,N", help="guests of a gang (1,2,4,8)")
    axes.add_argument("--links", type=links, metavar="MBIT,..",
                      help="rates of the link; 0: not shaped (200,1000,10000,0)")
    axes.add_argument("--repetitions", type=at_least(1), metavar="N",
                      help="runs of a case with the oracle (3; quick: 1)")
    axes.add_argument("--outside", type=at_least(0), metavar="N",
                      help="runs of a case for the client outside (1)")
    axes.add_argument("--memory", type=at_least(256), default=1024, metavar="MIB",
                      help="of each guest (1024)")
    axes.add_argument("--quick", action="store_true",
                      help="one repetition of four modes, 4 guests, 1000 Mbit/s")
    axes.add_argument("--targets", action="store_true",
                      help="the cases that the targets need, the most telling first, with 1 GiB "
                           "guests: some 50 minutes on two cores")
    axes.add_argument("--estimates", action="store_true",
                      help="only what gangctl estimate expects, against what is sent: part of "
                           "--targets")
    axes.add_argument("--full", action="store_true", help="the product of all axes")
    axes.add_argument("--no-floor", action="store_true", help="do without the floor")
    axes.add_argument("--entropy", action="store_true",
                      help="also zstd -19 --long over the distinct pages of gangs of 4: takes a "
                           "quarter of an hour a workload")
    time_group = p.add_argument_group("time")
    time_group.add_argument("--budget", type=at_least(1), metavar="MINUTES",
                            help="begin no run that would not end in this time, and say what was "
                                 "left out; --resume measures it")
    time_group.add_argument("--prepare", action="store_true",
                            help="boot and save the guests, compute the floors, and measure nothing")
    files = p.add_argument_group("files")
    files.add_argument("--json", metavar="FILE",
                       help="the figures, written after every run (build/bench/bench.json)")
    files.add_argument("--html", metavar="FILE", help="the page (build/bench/bench.html)")
    files.add_argument("--markdown", metavar="FILE", help="tables for docs/performance.md")
    files.add_argument("--resume", action="store_true",
                       help="keep what --json holds and measure what is missing; figures of "
                            "programs that have changed since are measured again")
    files.add_argument("--from", dest="source", metavar="JSON",
                       help="measure nothing: draw the page from these figures")
    args = p.parse_args(argv)
    if (args.targets or args.estimates) and (args.workloads or args.modes or args.sizes or args.links or args.quick
                         or args.full):
        p.error("--targets and --estimates say themselves what is measured")
    args.repetitions = args.repetitions or (1 if args.quick else 3)
    args.outside = 1 if args.outside is None else args.outside
    args.json = args.json or os.path.join(floors.FOLDER, "bench.json")
    if not args.html and not (args.source and args.markdown):
        args.html = os.path.join(floors.FOLDER, "bench.html")
    return args


def programs():
    return {"stock": [process.product("qemu-system-x86_64-stock")],
            "gang": [process.product("qemu-system-x86_64"), process.product("gangd"),
                     os.path.join(process.BUILD, "lib/libgang.so")]}


def builds():
    """Short checksums of the programs that make the figures of a mode."""
    def key(names):
        digest = hashlib.sha256()
        for name in names:
            with open(name, "rb") as f:
                digest.update(hashlib.file_digest(f, "sha256").digest())
        return digest.hexdigest()[:12]
    return {kind: key(names) for kind, names in programs().items()}


def ages():
    """Change when a program is built anew."""
    return {kind: [(os.stat(name).st_ino, os.stat(name).st_mtime_ns) for name in names]
            for kind, names in programs().items()}


def machine():
    """What has to be known of this machine to read the figures; no names."""
    model = "?"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as f:
        memory_mb = int(f.readline().split()[1]) // 1024
    release = os.uname().release.split("-")[0]
    return {"cpus": os.cpu_count(), "cpu": model, "memory_mb": memory_mb, "kernel": release,
            "accelerator": "tcg"}


class Session:
    """One matrix under way."""

    def __init__(self, args):
        self.args, self.ages, self.builds = args, ages(), builds()
        self.figures, self.began = store.empty(), time.monotonic()
        self.not_set = set()
        have = set()
        if os.path.exists(args.json):
            if args.resume:
                self.figures = store.load(args.json)
                self.check_settings()
                have = store.measured(self.figures, self.builds)
            elif not args.prepare:
                os.replace(args.json, args.json + ".old")
                say(f"figures of an earlier run are in {args.json}.old")
        os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
        self.figures["machine"] = machine()
        self.figures["settings"] = self.settings()
        if args.estimates:
            runs = matrix.estimated_runs(args.repetitions)
        elif args.targets:
            runs = matrix.target_runs(args.repetitions, args.outside)
        else:
            runs = matrix.order(matrix.cases(args.workloads, args.modes, args.sizes, args.links,
                                             args.quick, args.full), args.repetitions, args.outside)
        fitting = self.that_fit({run.case for run in runs})
        found = {case.n for case in fitting}
        self.entropy_size = matrix.BASE_SIZE if matrix.BASE_SIZE in found else max(found, default=0)
        self.runs = [run for run in runs if run.case in fitting
                     and (self.key(run), run.kind) not in have]
        self.clock = matrix.Clock(self.runs, args.memory)

    @staticmethod
    def key(run):
        case = run.case
        return (case.workload, case.mode, case.n, case.link_mbit, run.repetition)

    def settings(self):
        return {"memory_mb": self.args.memory, "guest": os.path.basename(vm.guest_dir())}

    def check_settings(self):
        if self.figures["rows"] and self.figures["settings"] != self.settings():
            sys.exit(f"error: {self.args.json} is of other guests ({self.figures['settings']});"
                     " its figures cannot be continued")

    def that_fit(self, wanted):
        free = available_mib() * RAM_PART
        fitting = {case for case in wanted if case.n * self.args.memory * ROOM < free}
        too_big = sorted({case.n for case in wanted - fitting})
        if too_big:
            say(f"not measured, for want of memory: gangs of {', '.join(map(str, too_big))}"
                f" guests of {self.args.memory} MiB ({free:.0f} MiB are free)")
        return fitting

    def boot(self):
        """Saved states that no earlier run has made."""
        wanted = {}
        for run in self.runs:
            wanted[run.case.workload] = max(wanted.get(run.case.workload, 0), run.case.n)
        for workload, n in wanted.items():
            for i in range(n):
                t0 = time.monotonic()
                vm.state_file(spec(workload, i, self.args.memory))
                if time.monotonic() - t0 > 1:
                    say(f"booted and saved {workload} guest {i + 1} of {n}"
                        f" in {clock(time.monotonic() - t0)}")

    def floor_of(self, case):
        """floor_bytes of a case, or None."""
        if self.args.no_floor:
            return None
        entropy = self.args.entropy and case.n == self.entropy_size
        for known in self.figures["floors"]:
            if (known["workload"], known["n"]) == (case.workload, case.n) and (
                    not entropy or "zstd19_long_bytes" in known):
                return known[floors.FLOOR]
        specs = [spec(case.workload, i, self.args.memory) for i in range(case.n)]
        found = floors.floor(specs, entropy, say)
        if not found:
            say("gang_floor is not built: no floor")
            self.args.no_floor = True
            return None
        self.figures["floors"] = [f for f in self.figures["floors"]
                                  if (f["workload"], f["n"]) != (case.workload, case.n)]
        self.figures["floors"].append({"workload": case.workload, "n": case.n, **found})
        return found[floors.FLOOR]

    def one(self, number, run):
        elapsed = time.monotonic() - self.began
        say(f"run {number} of {len(self.runs)}, {clock(elapsed)} elapsed,"
            f" about {clock(self.clock.left())} left: {run}")
        try:
            floor = self.floor_of(run.case)
        except (subprocess.SubprocessError, RuntimeError, OSError) as error:
            say(f"  no floor: {error}")
            floor = None
        t0 = time.monotonic()
        try:
            row = measure(run, self.args.memory)
            self.check_programs(run)
        except Failed as error:
            self.check_programs(run)
            say(f"  FAILED: {error}\n  logs: {error.logs}")
            self.figures["failures"].append({
                "workload": run.case.workload, "mode": run.case.mode, "n": run.case.n,
                "link_mbit": run.case.link_mbit, "repetition": run.repetition,
                "outside": run.outside, "reason": str(error)})
        else:
            row["floor_bytes"] = floor
            row["build"] = self.builds[self.kind(run)]
            self.figures[run.kind].append(row)
            self.tell(row)
        self.clock.done(run, time.monotonic() - t0)
        store.save(self.figures, self.args.json)

    @staticmethod
    def kind(run):
        return "gang" if run.case.mode in matrix.GANG else "stock"

    def check_programs(self, run):
        """A row is of the programs that its build names, or it is none."""
        if ages()[self.kind(run)] != self.ages[self.kind(run)]:
            raise RuntimeError("the programs were built anew while they were measured; this run "
                               f"does not count. --resume --json {self.args.json} goes on.")

    def tell(self, row):
        for name in row.get("not_set", []):
            if name not in self.not_set:
                say(f"  this fork has no {name}: the gang modes differ only in what it has")
                self.not_set.add(name)
        text = (f"  {row['wire_bytes'] / 1e6:.1f} MB, {row['total_s']:.2f} s, downtime"
                f" {max(row['downtime_ms']):.0f} ms, CPU {row['cpu_src_s']:.1f}"
                f" + {row['cpu_dst_s']:.1f} s")
        if "estimate" in row:
            text += f", estimated {row['estimate']['expected_bytes'] / 1e6:.1f} MB"
        if "outage_ms" in row:
            text += f", outage {max(v or 0 for v in row['outage_ms']):.0f} ms"
        else:
            text += ", RAM " + ("identical" if row["ram_identical"] else "DIFFERS")
        say(text)

    def prepare(self):
        self.boot()
        for case in dict.fromkeys(run.case for run in self.runs):
            self.floor_of(case)

    def out_of_time(self, run):
        budget = self.args.budget
        return budget and time.monotonic() - self.began + self.clock.of(run) > budget * 60

    def leave_out(self, runs):
        """The rest, by case, so that one can tell what has no figures at all."""
        self.figures["left_out"] = [str(run) for run in runs]
        cases = {}
        for run in runs:
            what = {"rows": "", "outside": "outside ", "estimates": "estimated "}[run.kind]
            cases.setdefault(run.case, []).append(f"{what}{run.repetition + 1}")
        say(f"the budget of {self.args.budget} minutes leaves out {len(runs)} runs, about"
            f" {clock(self.clock.left())}; --resume measures them:")
        for case, which in cases.items():
            say(f"  {case}: {', '.join(which)}")

    def measure(self):
        kept = sum(len(self.figures[kind]) for kind in ("rows", "outside", "estimates"))
        if kept:
            say(f"{kept} runs are kept from {self.args.json}")
        self.boot()
        for number, run in enumerate(self.runs, 1):
            if self.out_of_time(run):
                self.leave_out(self.runs[number - 1:])
                break
            self.one(number, run)
        store.save(self.figures, self.args.json)


def write(args, figures):
    if args.html:
        os.makedirs(os.path.dirname(os.path.abspath(args.html)), exist_ok=True)
        with open(args.html, "w") as f:
            f.write(page.page(figures))
        say(f"page: {args.html}")
    if args.markdown:
        with open(args.markdown, "w") as f:
            f.write(markdown.tables_of(figures))
        say(f"tables: {args.markdown}")


def main():
    args = arguments()
    if args.source:
        figures = store.load(args.source)
        write(args, figures)
        print(markdown.plain(tables.verdicts(tables.View(figures))))
        return 0
    process.become_subreaper()
    # SIGINT too: a shell starts background jobs with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    session = Session(args)
    if args.prepare:
        session.prepare()
        return 0
    interrupted = False
    try:
        session.measure()
    except KeyboardInterrupt:
        interrupted = True
        say("interrupted: what was measured is kept; --resume goes on")
        store.save(session.figures, args.json)
    write(args, session.figures)
    say(f"figures: {args.json}")
    say("\n" + markdown.plain(tables.verdicts(tables.View(session.figures))))
    wrong = [row for kind in ("rows", "estimates") for row in session.figures[kind]
             if not row["ram_identical"]]
    for text, found in (("runs failed", session.figures["failures"]),
                        ("runs arrived with other RAM", wrong)):
        if found:
            say(f"error: {len(found)} {text}")
    if interrupted:
        return 130
    return 1 if wrong or session.figures["failures"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
