# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The ratios that have to be reached: met, missed, or not measured.

Ratios are of runs of one repetition; the verdict is on their median.  OURS is
what a user gets who sets nothing."""

from dataclasses import dataclass

from .matrix import BASE_LINK, BASE_SIZE, GANG, STOCK, WORKLOADS, link_order
from .stats import Cell, Table, cell, ratios

OURS, ZSTD = "gang-auto", "stock-multifd-zstd"
BYTES = {"idle": 0.27, "web": 0.42, "redis": 0.76, "dirty": 0.45}  # of ZSTD's
OF_FLOOR = 1.15


@dataclass(frozen=True)
class Verdict:
    group: str  # of targets that belong together
    what: str
    limit: float
    got: Cell = None  # None: not measured

    @property
    def met(self):
        return None if self.got is None else self.got.median <= self.limit

    @property
    def word(self):
        return {None: "not measured", True: "met", False: "missed"}[self.met]


def total_cpu(row):
    return row["cpu_src_s"] + row["cpu_dst_s"]


def link_name(mbit):
    if not mbit:
        return "unshaped"
    return f"{mbit // 1000} Gbit/s" if mbit % 1000 == 0 else f"{mbit} Mbit/s"


def base_size(table):
    """Four guests; or, in a smaller matrix, the most that there are."""
    found = table.axis(2)
    return BASE_SIZE if BASE_SIZE in found or not found else max(found)


def base_link(table):
    """1 Gbit/s; or, in a smaller matrix, the fastest shaped one."""
    found = table.axis(3)
    return BASE_LINK if BASE_LINK in found or not found else max(found)


def bytes_targets(table, n, link, ours):
    found = []
    for workload, limit in BYTES.items():
        rows = table.get(workload, ours, n, link)
        against = ratios(rows, table.get(workload, ZSTD, n, link), "wire_bytes")
        found.append(Verdict("bytes", f"{workload}: of stock multifd + zstd", limit, cell(against)))
        of_floor = [row["wire_bytes"] / row["floor_bytes"] for row in rows if row.get("floor_bytes")]
        found.append(Verdict("bytes", f"{workload}: of the floor", OF_FLOOR, cell(of_floor)))
    return found


def time_targets(table, n, ours):
    found = []
    for link, limit in ((1000, 0.5), (200, 0.30)):
        got = ratios(table.get("idle", ours, n, link), table.get("idle", ZSTD, n, link), "total_s")
        found.append(Verdict("time", f"idle, {link_name(link)}: of stock multifd + zstd", limit,
                             cell(got)))
    return found


def further_guest(table, mode, most, link, workload="idle"):
    """The bytes of each guest after the first, as a part of the first one's."""
    alone = {r["repetition"]: r["wire_bytes"] for r in table.get(workload, mode, 1, link)}
    return [(row["wire_bytes"] - alone[row["repetition"]]) / (most - 1) / alone[row["repetition"]]
            for row in table.get(workload, mode, most, link) if row["repetition"] in alone]


def scaling_target(table, link, ours):
    return [Verdict("scaling", "8 idle guests: bytes of each further one, of the first's", 0.10,
                    cell(further_guest(table, ours, 8, link)))]


def random_targets(table, n, ours):
    found = []
    for link in sorted(table.axis(3) | {200, 1000, 10000, 0}, key=lambda mbit: mbit or float("inf")):
        rows = table.get("random", ours, n, link)
        plain = table.get("random", "stock-multifd", n, link)
        for value, name, limit in (("wire_bytes", "bytes", 1.01), ("total_s", "time", 1.05)):
            found.append(Verdict("no duplicates", f"{name}, {link_name(link)}: of stock multifd",
                                 limit, cell(ratios(rows, plain, value))))
    return found


def best_stock(table, workload, n, link, value):
    """The stock mode with the least median, or None."""
    medians = {mode: table.cell(workload, mode, n, link, value) for mode in STOCK}
    medians = {mode: c.median for mode, c in medians.items() if c}
    return min(medians, key=medians.get) if medians else None


def unshaped_targets(table, n, ours):
    rows = table.get("idle", ours, n, 0)
    best = best_stock(table, "idle", n, 0, "total_s")
    time = against_median(rows, table.get("idle", best, n, 0), "total_s") if best else []
    cpu = ratios(rows, table.get("idle", ZSTD, n, 0), total_cpu)
    return [Verdict("unshaped", f"idle, time: of the best stock mode{f' ({best})' if best else ''}",
                    0.7, cell(time)),
            Verdict("unshaped", "idle, CPU seconds: of stock multifd + zstd", 0.8, cell(cpu))]


def worst_downtime(row):
    return max(row["downtime_ms"])


def turns_targets(table, ours):
    """Eight busy guests on one link: what turns are for."""
    rows, stock = table.get("dirty", ours, 8, 1000), table.get("dirty", "stock-multifd", 8, 1000)
    return [Verdict("turns", f"8 busy guests, {name}: of stock multifd", limit,
                    cell(ratios(rows, stock, value)))
            for name, value, limit in (("worst downtime", worst_downtime, 0.5),
                                       ("time", "total_s", 1.0))]


def against_median(ours, theirs, value):
    """Run by run where both were repeated; a mode that was measured less often is
    compared by its median."""
    if len(theirs) >= len(ours):
        return ratios(ours, theirs, value)
    median = cell(row[value] for row in theirs)
    return [row[value] / median.median for row in ours]


@dataclass(frozen=True)
class Downtime:
    """Of one case, ms; against: stock mode -> ours and its, of the repetitions that both
    have: of more runs the worst is worse."""
    workload: str
    n: int
    link: int
    against: dict

    def pair(self, kind):
        """Ours and the best stock mode's: their medians, or their worst.  Best is what
        we look worst against."""
        def value(c):
            return c.median if kind == "median" else c.high
        pairs = [(value(ours), value(stock)) for ours, stock in self.against.values()]
        return max(pairs, key=lambda p: p[0] / max(p[1], 1.0))

    def ratio(self, kind):
        ours, stock = self.pair(kind)
        return ours / max(stock, 1.0)


def downtime_cases(table, value="downtime_ms", ours=OURS):
    """Wherever ours and a stock mode were measured."""
    found = []
    for workload, n, link in {(w, n, link) for w, mode, n, link in table.rows if mode == ours}:
        mine, against = table.get(workload, ours, n, link), {}
        for mode in STOCK:
            stock = table.get(workload, mode, n, link)
            both = {r["repetition"] for r in mine} & {r["repetition"] for r in stock}
            cells = [cell(v for row in rows if row["repetition"] in both for v in row[value])
                     for rows in (mine, stock)]
            if all(cells):
                against[mode] = cells
        if against:
            found.append(Downtime(workload, n, link, against))
    return sorted(found, key=lambda d: (WORKLOADS.index(d.workload), d.n, link_order(d.link)))


DOWNTIMES = (("downtime_ms", "as QEMU reports it"), ("outage_ms", "as seen from outside"))


def downtime_targets(table, outside, ours):
    """Everywhere: the ratio's median is that of the worst case, so that one
    case that is missed misses the target."""
    found = []
    for source, (value, name) in zip((table, outside), DOWNTIMES):
        cases = downtime_cases(source, value, ours)
        for kind in ("median", "worst"):
            all_ratios = [case.ratio(kind) for case in cases]
            got = None
            if all_ratios:
                got = Cell(max(all_ratios), min(all_ratios), max(all_ratios), len(all_ratios))
            missed = sum(ratio > 1 for ratio in all_ratios)
            note = f", missed in {missed} of {len(all_ratios)} cases" if missed else ""
            found.append(Verdict("downtime", f"{kind}, {name}: of the best stock mode, "
                                             f"in the worst case{note}", 1.0, got))
    return found


def verdicts(figures, ours=OURS):
    table, outside = Table(figures["rows"]), Table(figures["outside"])
    n, link = base_size(table), base_link(table)
    return (bytes_targets(table, n, link, ours) + time_targets(table, n, ours)
            + scaling_target(table, link, ours) + random_targets(table, n, ours)
            + unshaped_targets(table, n, ours) + turns_targets(table, ours) + downtime_targets(table, outside, ours))


def best_others(figures):
    """For each verdict, in their order: the gang mode but OURS that comes lowest, and
    its Cell; None where none was measured.  It tells what a better choice by auto
    would bring.  Not for downtimes, which are of other cases then."""
    modes = [mode for mode in GANG if mode != OURS]
    found = []
    for same in zip(*(verdicts(figures, mode) for mode in modes)):
        known = [(v.got.median, mode, v.got) for v, mode in zip(same, modes)
                 if v.got and v.group != "downtime"]
        found.append(min(known, key=lambda k: k[0])[1:] if known else None)
    return found
