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
    Otherwise it holds it for the oracle; one run cannot do both.  estimate: gangctl
    estimates it first, which costs the guests some seconds, so it is not compared."""
    case: Case
    repetition: int
    outside: bool = False
    estimate: bool = False

    @property
    def kind(self):
        """The list of figures that its row belongs to."""
        return "outside" if self.outside else "estimates" if self.estimate else "rows"

    def __str__(self):
        kind = {"outside": "seen from outside", "estimates": "estimated", "rows": "repetition"}
        return f"{self.case}, {kind[self.kind]} {self.repetition + 1}"


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


# What the targets need and no more, what matters most first: (workload, n, link,
# modes).  CORE has every repetition; OUTSIDE are its cases whose client listens;
# ONCE is what is slow or hardly spreads, and the rest of the ablation.  Cases of the
# same guests follow each other: their saved states are still in the page cache.
CORE = (
    ("idle", 4, 1000, ("stock-multifd", "stock-multifd-zstd", "gang-zstd", "gang-auto")),
    ("idle", 4, 0, ("stock-multifd", "stock-multifd-zstd", "gang-page", "gang-auto")),
    ("idle", 4, 200, ("stock-multifd-zstd", "gang-auto")),
    ("idle", 1, 1000, ("gang-auto",)),
    ("idle", 8, 1000, ("gang-auto",)),
    ("dirty", 4, 1000, ("stock-multifd-zstd", "gang-auto")),
    ("redis", 4, 1000, ("stock-multifd-zstd", "gang-auto")),
    ("web", 4, 1000, ("stock-multifd-zstd", "gang-auto")),
    ("random", 4, 0, ("stock-multifd", "gang-auto")),
    ("random", 4, 10000, ("stock-multifd", "gang-auto")),
    ("random", 4, 1000, ("stock-multifd", "gang-auto")),
)
OUTSIDE = (
    ("idle", 4, 1000, ("stock-multifd", "stock-multifd-zstd", "gang-auto")),
    ("dirty", 4, 1000, ("stock-multifd-zstd", "gang-auto")),
    ("redis", 4, 1000, ("stock-multifd-zstd", "gang-auto")),
    ("web", 4, 1000, ("stock-multifd-zstd", "gang-auto")),
    ("idle", 4, 0, ("stock-multifd", "gang-auto")),
)
ONCE = (
    ("idle", 4, 1000, ("gang-page", "gang-subpage", "gang-delta")),
    ("dirty", 8, 1000, ("stock-multifd", "gang-auto")),
    ("random", 4, 200, ("stock-multifd", "gang-auto")),
    ("idle", 8, 1000, ("stock-multifd-zstd", "gang-zstd")),
    ("idle", 1, 1000, ("stock-multifd-zstd", "gang-zstd")),
    ("idle", 4, 200, ("gang-zstd",)),
    ("dirty", 4, 1000, ("gang-zstd",)),
    ("redis", 4, 1000, ("gang-zstd",)),
    ("web", 4, 1000, ("gang-zstd",)),
    ("idle", 4, 0, ("stock-precopy", "gang-zstd")),
    ("idle", 4, 1000, ("stock-precopy", "stock-xbzrle")),
    ("idle", 2, 1000, ("stock-multifd-zstd", "gang-auto")),
)
ESTIMATED = (
    ("idle", 4, 1000, ("gang-auto",)),
    ("idle", 4, 200, ("gang-auto",)),
    ("dirty", 4, 1000, ("gang-auto",)),
    ("redis", 4, 1000, ("gang-auto",)),
    ("web", 4, 1000, ("gang-auto",)),
)


def estimated_runs(repetitions):
    return [Run(Case(workload, mode, n, link), repetition, estimate=True)
            for repetition in range(repetitions)
            for workload, n, link, modes in ESTIMATED for mode in modes]


def target_runs(repetitions, outside):
    """As order(): pass after pass, the first mode of a case another one each time.
    What is measured once comes after the first pass."""
    passes = []
    for i in range(max(repetitions, outside)):
        passes += [(CORE, i, False)] if i < repetitions else []
        passes += [(OUTSIDE, i, True)] if i < outside else []
        passes += [(ONCE, 0, False)] if i == 0 else []
    runs = []
    for groups, repetition, is_outside in passes:
        for workload, n, link, modes in groups:
            first = repetition % len(modes)
            runs += [Run(Case(workload, mode, n, link), repetition, is_outside)
                     for mode in modes[first:] + modes[:first]]
    return runs + estimated_runs(repetitions)


# How long: on two cores of 2.4 GHz, both hosts on them.
USED = {"idle": 0.83, "redis": 0.45, "web": 0.3, "dirty": 0.55, "random": 0.63}  # of the memory
ON_THE_WIRE = {"stock-multifd-zstd": 0.36, "gang-page": 0.33, "gang-subpage": 0.32,
               "gang-delta": 0.28, "gang-zstd": 0.1, "gang-auto": 0.1}  # of what is used
MB_A_SECOND = {"stock-precopy": 600, "stock-multifd": 900, "stock-multifd-zstd": 270,
               "stock-xbzrle": 400}  # that the CPUs get through; of gangs 500


def rough_seconds(run, memory_mb):
    """A first guess of what a run takes; estimates scale it by what the runs
    so far took."""
    case = run.case
    used_mb = case.n * memory_mb * 1.05 * USED[case.workload]
    part = 1.0 if case.workload == "random" else ON_THE_WIRE.get(case.mode, 1.0)
    # Only what more than one guest has is sent once.
    part = max(part, 0.25) if case.n == 1 and case.mode in GANG else part
    link = used_mb * part / (case.link_mbit * 0.119) if case.link_mbit else 0
    return 8 + case.n * memory_mb / 700 + max(link, used_mb / MB_A_SECOND.get(case.mode, 500))


class Clock:
    """How much longer: the guesses of what is left, scaled by how the guesses
    so far did."""

    def __init__(self, runs, memory_mb):
        self.guess = {run: rough_seconds(run, memory_mb) for run in runs}
        self.took = self.guessed = 0.0

    def done(self, run, seconds):
        self.took += seconds
        self.guessed += self.guess.pop(run)

    def _scale(self):
        return self.took / self.guessed if self.guessed else 1.0

    def left(self):
        return self._scale() * sum(self.guess.values())

    def of(self, run):
        return self._scale() * self.guess[run]
