# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The ratios that have to be reached: met, missed, or not measured.

Ratios are of runs of one repetition; the verdict is on their median.  OURS is
what a user gets who sets nothing."""

from dataclasses import dataclass

from .matrix import BASE_LINK, BASE_SIZE, STOCK
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


def bytes_targets(table, n, link):
    found = []
    for workload, limit in BYTES.items():
        ours = table.get(workload, OURS, n, link)
        against = ratios(ours, table.get(workload, ZSTD, n, link), "wire_bytes")
        found.append(Verdict("bytes", f"{workload}: of stock multifd + zstd", limit, cell(against)))
        of_floor = [row["wire_bytes"] / row["floor_bytes"] for row in ours if row.get("floor_bytes")]
        found.append(Verdict("bytes", f"{workload}: of the floor", OF_FLOOR, cell(of_floor)))
    return found


def time_targets(table, n):
    found = []
    for link, limit in ((1000, 0.5), (200, 0.30)):
        got = ratios(table.get("idle", OURS, n, link), table.get("idle", ZSTD, n, link), "total_s")
        found.append(Verdict("time", f"idle, {link_name(link)}: of stock multifd + zstd", limit,
                             cell(got)))
    return found


def further_guest(table, mode, most, link, workload="idle"):
    """The bytes of each guest after the first, as a part of the first one's."""
    alone = {r["repetition"]: r["wire_bytes"] for r in table.get(workload, mode, 1, link)}
    return [(row["wire_bytes"] - alone[row["repetition"]]) / (most - 1) / alone[row["repetition"]]
            for row in table.get(workload, mode, most, link) if row["repetition"] in alone]


def scaling_target(table, link):
    return [Verdict("scaling", "8 idle guests: each further one, of the first", 0.10,
                    cell(further_guest(table, OURS, 8, link)))]


def random_targets(table, n):
    found = []
    for link in sorted(table.axis(3), key=lambda mbit: mbit or float("inf")) or [BASE_LINK]:
        ours = table.get("random", OURS, n, link)
        plain = table.get("random", "stock-multifd", n, link)
        for value, name, limit in (("wire_bytes", "bytes", 1.01), ("total_s", "time", 1.05)):
            found.append(Verdict("no duplicates", f"{name}, {link_name(link)}: of stock multifd",
                                 limit, cell(ratios(ours, plain, value))))
    return found


def best_stock(table, workload, n, link, value):
    """The stock mode with the least median, or None."""
    medians = {mode: table.cell(workload, mode, n, link, value) for mode in STOCK}
    medians = {mode: c.median for mode, c in medians.items() if c}
    return min(medians, key=medians.get) if medians else None


def unshaped_targets(table, n):
    ours = table.get("idle", OURS, n, 0)
    best = best_stock(table, "idle", n, 0, "total_s")
    time = ratios(ours, table.get("idle", best, n, 0), "total_s") if best else []
    cpu = ratios(ours, table.get("idle", ZSTD, n, 0), total_cpu)
    return [Verdict("unshaped", f"idle, time: of the best stock mode{f' ({best})' if best else ''}",
                    0.7, cell(time)),
            Verdict("unshaped", "idle, CPU seconds: of stock multifd + zstd", 0.8, cell(cpu))]


def downtime_cases(table, value="downtime_ms"):
    """(workload, n, link) -> ours and the best stock mode's median and worst, in
    ms, wherever both are there."""
    found = {}
    for workload, mode, n, link in table.rows:
        if mode != OURS:
            continue
        ours = table.cell(workload, OURS, n, link, value)
        stock = [table.cell(workload, other, n, link, value) for other in STOCK]
        stock = [c for c in stock if c]
        if ours and stock:
            found[workload, n, link] = {
                "median": (ours.median, min(c.median for c in stock)),
                "worst": (ours.high, min(c.high for c in stock))}
    return found


def downtime_targets(table, outside):
    """Everywhere: the ratio's median is that of the worst case, so that one
    case that is missed misses the target."""
    found = []
    for source, value, name in ((table, "downtime_ms", "as QEMU reports it"),
                                (outside, "outage_ms", "as seen from outside")):
        cases = downtime_cases(source, value)
        for kind in ("median", "worst"):
            all_ratios = [ours / max(stock, 1.0) for ours, stock in
                          (case[kind] for case in cases.values())]
            got = None
            if all_ratios:
                got = Cell(max(all_ratios), min(all_ratios), max(all_ratios), len(all_ratios))
            missed = sum(ratio > 1 for ratio in all_ratios)
            note = f", missed in {missed} of {len(all_ratios)} cases" if missed else ""
            found.append(Verdict("downtime", f"{kind}, {name}: of the best stock mode, "
                                             f"in the worst case{note}", 1.0, got))
    return found


def verdicts(figures):
    table, outside = Table(figures["rows"]), Table(figures["outside"])
    n, link = base_size(table), base_link(table)
    return (bytes_targets(table, n, link) + time_targets(table, n) + scaling_target(table, link)
            + random_targets(table, n) + unshaped_targets(table, n)
            + downtime_targets(table, outside))
