# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Which cases are measured, in which order, and how long it may take."""

import itertools
from dataclasses import dataclass

WORKLOADS = ("idle", "redis", "web", "dirty", "random")
STOCK = ("stock-precopy", "stock-multifd", "stock-multifd-zstd", "stock-xbzrle")
GANG = ("gang-page", "gang-subpage", "gang-delta", "gang-zstd", "gang-auto")
MODES = STOCK + GANG
SIZES = (1, 2, 4, 8)
LINKS = (200, 1000, 10000, 0)  # Mbit/s; 0: not shaped

QUICK_MODES = ("stock-multifd", "stock-multifd-zstd", "gang-page", "gang-auto")
BASE_SIZE, BASE_LINK = 4, 1000  # what the targets are given for


@dataclass(frozen=True)
class Case:
    """What is compared; its runs are repetitions of each other."""
    workload: str
    mode: str
    n: int
    link_mbit: int

    def __str__(self):
        link = f"{self.link_mbit} Mbit/s" if self.link_mbit else "unshaped"
        return f"{self.workload} x{self.n}, {link}, {self.mode}"


@dataclass(frozen=True)
class Run:
    """outside: the destination runs its guest at once, for the client outside.
    Otherwise it holds it for the oracle; one run cannot do both."""
    case: Case
    repetition: int
    outside: bool = False

    def __str__(self):
        kind = "seen from outside" if self.outside else "repetition"
        return f"{self.case}, {kind} {self.repetition + 1}"


def product(workloads, modes, sizes, links):
    return {Case(*axes) for axes in itertools.product(workloads, modes, sizes, links)}


def standard():
    """Every workload, mode and link with four guests, and every mode and size
    with idle ones: all that targets and plots need, in a third of the runs of
    the whole product."""
    return (product(WORKLOADS, MODES, [BASE_SIZE], LINKS)
            | product(["idle"], MODES, SIZES, [BASE_LINK]))


def cases(workloads=None, modes=None, sizes=None, links=None, quick=False, full=False):
    """What the options ask for: the product of the axes given, an axis not
    given being one value (or all of them: full)."""
    if not (workloads or modes or sizes or links or quick or full):
        return standard()
    return product(workloads or WORKLOADS,
                   modes or (QUICK_MODES if quick else MODES),
                   sizes or (SIZES if full else [BASE_SIZE]),
                   links or (LINKS if full else [BASE_LINK]))


def order(wanted, repetitions, outside):
    """All runs.  A repetition is a pass over all cases, so that what drifts
    with time meets every mode, and an interrupted matrix has every case once.
    Modes are compared with each other, so they follow each other; who comes
    first changes from pass to pass."""
    passes = []
    for i in range(max(repetitions, outside)):
        passes += [(i, False)] if i < repetitions else []
        passes += [(i, True)] if i < outside else []
    runs = []
    for turn, (repetition, is_outside) in enumerate(passes):
        def key(case, turn=turn):
            return (WORKLOADS.index(case.workload), case.n, link_order(case.link_mbit),
                    (MODES.index(case.mode) - turn) % len(MODES))
        runs += [Run(case, repetition, is_outside) for case in sorted(wanted, key=key)]
    return runs


def link_order(link_mbit):
    return link_mbit or float("inf")


def rough_seconds(run, memory_mb):
    """A first guess of what a run takes; estimates scale it by what the runs
    so far took."""
    case = run.case
    raw_mb = case.n * memory_mb * (0.25 if case.workload == "web" else 0.6)
    part = {"stock-multifd-zstd": 0.35, "gang-page": 0.5, "gang-subpage": 0.45,
            "gang-delta": 0.4, "gang-zstd": 0.15, "gang-auto": 0.15}.get(case.mode, 1.0)
    if case.workload == "random":
        part = 1.0
    link = raw_mb * part * 8 / case.link_mbit if case.link_mbit else 0
    cpu = raw_mb / 400
    return 7 + case.n * memory_mb / 700 + max(link, cpu)


class Clock:
    """How much longer: the guesses of what is left, scaled by how the guesses
    so far did."""

    def __init__(self, runs, memory_mb):
        self.guess = {run: rough_seconds(run, memory_mb) for run in runs}
        self.took = self.guessed = 0.0

    def done(self, run, seconds):
        self.took += seconds
        self.guessed += self.guess.pop(run)

    def left(self):
        scale = self.took / self.guessed if self.guessed else 1.0
        return scale * sum(self.guess.values())
