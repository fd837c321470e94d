# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The tables, for the page and for docs/performance.md alike: texts only."""

from dataclasses import dataclass, field

from . import targets
from .matrix import GANG, MODES, WORKLOADS
from .plots import TITLES
from .stats import Table, cell
from .targets import link_name

NONE = "–"


@dataclass
class Sheet:
    """A table.  marks: (row, column) -> a class of the page's style."""
    title: str
    head: list
    rows: list
    marks: dict = field(default_factory=dict)


class View:
    """Figures, as tables and plots want them."""

    def __init__(self, figures):
        self.figures = figures
        self.rows, self.outside = Table(figures["rows"]), Table(figures["outside"])
        self.n, self.link = targets.base_size(self.rows), targets.base_link(self.rows)
        self.modes = [m for m in MODES if m in self.rows.axis(1)]
        self.workloads = [w for w in WORKLOADS if w in self.rows.axis(0)]
        self.sizes = sorted(self.rows.axis(2))
        self.links = sorted(self.rows.axis(3), key=lambda mbit: mbit or float("inf"))
        self.memory_mb = figures["settings"].get("memory_mb", 0)

    def floor(self, workload, n, which="delta_zstd3_bytes"):
        for known in self.figures["floors"]:
            if (known["workload"], known["n"]) == (workload, n):
                return known.get(which)
        return None

    def has(self, workload, n, link):
        """Whether there is something to compare."""
        return sum(bool(self.rows.get(workload, m, n, link)) for m in self.modes) > 1

    def modes_of(self, workload, n, link):
        return [m for m in self.modes if self.rows.get(workload, m, n, link)]

    def modes_with(self, keys):
        """Those that have figures for two or more of the keys (workload, n, link): a
        line's ends."""
        return [m for m in self.modes
                if sum(bool(self.rows.get(w, m, n, link)) for w, n, link in keys) > 1]

    def guests(self, n):
        return f"{n} guest{'s' if n > 1 else ''} of {self.memory_mb} MiB"

    def sizes_of(self, workload, link):
        return [n for n in self.sizes if self.has(workload, n, link)]

    def links_of(self, workload, n):
        return [link for link in self.links if self.has(workload, n, link)]


def text(c, digits=1, factor=1.0):
    return c.scaled(factor).text(digits) if c else NONE


def worst(c):
    return f"{c.median:,.0f} / {c.high:,.0f}" if c else NONE


def verdicts(view):
    sheet = Sheet(f"Targets ({view.guests(view.n)} unless said)",
                  ["", "target", "at most", "measured", "runs", "best other gang mode", "verdict"], [])
    group, other_modes = None, targets.best_others(view.figures)
    for v, other in zip(targets.verdicts(view.figures), other_modes):
        sheet.marks[len(sheet.rows), 6] = v.word.replace(" ", "-")
        sheet.rows.append([
            v.group if v.group != group else "", v.what, f"{v.limit:.2f}",
            v.got.text(3) if v.got else NONE,
            (f"{v.got.count}" + (" cases" if v.group == "downtime" else "")) if v.got else NONE,
            f"{other[1].median:.3f} ({TITLES[other[0]].removeprefix('gang, ')})" if other else NONE,
            v.word])
        group = v.group
    return sheet


def downtime_verdicts(view):
    """Case by case, ours against the best stock mode, which need not be the same one
    for the median and for the worst."""
    sheet = Sheet("Downtime against the best stock mode, ms",
                  ["gang", "seen by", f"{TITLES[targets.OURS]}: median", "best stock: median",
                   f"{TITLES[targets.OURS]}: worst", "best stock: worst", "verdict"], [])
    for table, (value, _), who in ((view.rows, targets.DOWNTIMES[0], "QEMU"),
                                   (view.outside, targets.DOWNTIMES[1], "a client")):
        for case_ in targets.downtime_cases(table, value):
            met = all(case_.ratio(kind) <= 1 for kind in ("median", "worst"))
            sheet.marks[len(sheet.rows), 6] = word = "met" if met else "missed"
            sheet.rows.append([f"{case_.workload} x{case_.n}, {link_name(case_.link)}", who]
                              + [f"{ms:,.0f}" for kind in ("median", "worst")
                                 for ms in case_.pair(kind)] + [word])
    return sheet


def case(view, workload, n, link):
    """All of one case, a row a mode."""
    sheet = Sheet(f"{workload}: {view.guests(n)}, {link_name(link)}",
                  ["mode", "MB on the wire", "total s", "downtime ms, median / worst",
                   "outage seen outside ms, median / worst", "CPU s source", "CPU s destination",
                   "guest's slow-down %"], [])
    best = {}
    for mode in view.modes:
        if not view.rows.get(workload, mode, n, link):
            continue
        wire, total, down, src, dst, slow = (
            view.rows.cell(workload, mode, n, link, value) for value in
            ("wire_bytes", "total_s", "downtime_ms", "cpu_src_s", "cpu_dst_s", "slowdown"))
        outage = view.outside.cell(workload, mode, n, link, "outage_ms")
        for column, c in ((1, wire), (2, total)):
            if c.median < best.get(column, (float("inf"),))[0]:
                best[column] = (c.median, len(sheet.rows))
        sheet.rows.append([TITLES[mode], text(wire, 1, 1e-6), text(total, 2), worst(down),
                           worst(outage), text(src), text(dst),
                           f"{slow.median * 100 + 0.0:.0f}" if slow else NONE])
    floor = view.floor(workload, n)
    if floor and sheet.rows:
        sheet.rows.append(["floor", f"{floor / 1e6:,.1f}"] + [""] * 6)
    sheet.marks = {(row, column): "best" for column, (_, row) in best.items()}
    return sheet


def by_link(view, workload, n):
    found = view.links_of(workload, n)
    sheet = Sheet(f"{workload}: {view.guests(n)}, by link",
                  ["mode"] + [f"{link_name(link)}: {what}" for link in found
                              for what in ("MB", "s")], [])
    for mode in view.modes_with([(workload, n, link) for link in found]):
        row = [TITLES[mode]]
        for link in found:
            row += [text(view.rows.cell(workload, mode, n, link, "wire_bytes"), 1, 1e-6),
                    text(view.rows.cell(workload, mode, n, link, "total_s"), 2)]
        sheet.rows.append(row)
    return sheet


def scaling(view, workload, link):
    """By gang size: MB, and what each guest after the first costs; seconds."""
    found = view.sizes_of(workload, link)
    most = max(found)
    guests = f"{workload} guests of {view.memory_mb} MiB by gang size, {link_name(link)}"
    size = Sheet(f"{guests}: MB on the wire", ["mode"] + [f"{n}" for n in found]
                 + [f"each further of {most}, % of the first"], [])
    time = Sheet(f"{guests}: total time, s", ["mode"] + [f"{n}" for n in found], [])
    for mode in view.modes_with([(workload, n, link) for n in found]):
        further = cell(targets.further_guest(view.rows, mode, most, link, workload)) \
            if most > 1 else None
        size.rows.append([TITLES[mode]] + [
            text(view.rows.cell(workload, mode, n, link, "wire_bytes"), 1, 1e-6) for n in found]
            + [text(further, 1, 100)])
        time.rows.append([TITLES[mode]] + [
            text(view.rows.cell(workload, mode, n, link, "total_s"), 2) for n in found])
    return size, time


FLOORS = (("nonzero", "non-zero pages"), ("distinct", "distinct pages"),
          ("distinct_zstd1_bytes", "… zstd -1"), ("subpage1024_zstd1_bytes", "… without equal KiB"),
          ("subpage512_zstd1_bytes", "… without equal 512 B"),
          ("delta_zstd1_bytes", "delta, zstd -1"), ("delta_zstd3_bytes", "delta, zstd -3: the floor"),
          ("zstd19_long_bytes", "zstd -19 --long"))


def floor_steps(view, workload, n):
    """(name, MB) of each step of the floor."""
    steps = []
    for key, name in FLOORS:
        value = view.floor(workload, n, key)
        if key in ("nonzero", "distinct"):
            pages = view.floor(workload, n, key + "_pages")
            value = pages * 4096 if pages is not None else None
        if value is not None:
            steps.append((name, value / 1e6))
    return steps


def floors(view):
    found = sorted(view.figures["floors"], key=lambda f: (WORKLOADS.index(f["workload"]), f["n"]))
    sheet = Sheet("The floor: MB of the same guests' memory after each step, without the limits of "
                  "a live migration", ["gang"] + [name for _, name in FLOORS], [])
    for known in found:
        steps = dict(floor_steps(view, known["workload"], known["n"]))
        sheet.rows.append([f"{known['workload']} x{known['n']}"]
                          + [f"{steps[name]:,.1f}" if name in steps else NONE
                             for _, name in FLOORS])
    return sheet


def downtimes(view, link):
    """QEMU's downtime and the outage outside, of every gang on a link.  A client's
    longest wait need not be the hand-over: a guest may starve before."""
    sheet = Sheet(f"Downtime, ms, median / worst of all VMs, {link_name(link)}",
                  ["gang", "seen by"] + [TITLES[m] for m in view.modes], [])
    for workload in view.workloads:
        for n in view.sizes_of(workload, link):
            for table, value, name in ((view.rows, "downtime_ms", "QEMU"),
                                       (view.outside, "outage_ms", "a client"),
                                       (view.outside, "handover_ms", "… at hand-over")):
                cells = [table.cell(workload, m, n, link, value) for m in view.modes]
                if any(cells):
                    sheet.rows.append([f"{workload} x{n}", name] + [worst(c) for c in cells])
    return sheet


def memory(view):
    """What the gang modes keep in shared memory."""
    sheet = Sheet("Shared memory of a gang, MB", ["gang", "mode", "store (destination)",
                                                   "mirror (source)", "directory (source)",
                                                   "directory, % of the gang's RAM"], [])
    for workload in view.workloads:
        for n in view.sizes:
            for mode in view.modes:
                if mode not in GANG:
                    continue
                group = [r for link in view.links for r in view.rows.get(workload, mode, n, link)]
                if not group:
                    continue
                ram = n * view.memory_mb * 1.048576
                directory = cell(r["directory_bytes"] for r in group)
                sheet.rows.append([
                    f"{workload} x{n}", TITLES[mode],
                    *(text(cell(r.get(k) for r in group), 1, 1e-6) for k in
                      ("store_bytes", "mirror_bytes")),
                    text(directory, 1, 1e-6), f"{directory.high / 1e4 / ram:.2f}"])
    return sheet


KINDS = ("zero", "referenced", "patched", "delta", "literal", "published", "deferred")


def pages(view, workload, n, link):
    """How the pages of a gang travelled, as query-gang counts them."""
    sheet = Sheet(f"{workload}: {view.guests(n)}, {link_name(link)}: thousands of pages by how they "
                  "were sent", ["mode", *KINDS, "metadata KB"], [])
    for mode in view.modes:
        group = [r for r in view.rows.get(workload, mode, n, link) if r.get("gang")]
        if group:
            counts = [cell(r["gang"].get(f"{kind}_pages") for r in group) for kind in KINDS]
            metadata = cell(r["gang"].get("metadata_bytes") for r in group)
            sheet.rows.append([TITLES[mode], *(text(c, 1, 1e-3) for c in counts),
                               text(metadata, 0, 1e-3)])
    return sheet


def estimates(view):
    """What gangctl estimate said of gangs before they moved."""
    sheet = Sheet("gangctl estimate, and what was then sent", [
        "gang", "expected MB", "sent MB", "error %", "expected s", "took s", "error %",
        "expected store MB", "store MB"], [])
    groups = {}
    for row in view.figures["estimates"]:
        groups.setdefault((row["workload"], row["n"], row["link_mbit"]), []).append(row)
    for (workload, n, link), rows in groups.items():
        def error(told, real, factor=1, rows=rows):
            return cell(r["estimate"][told] * factor / r[real] - 1 for r in rows
                        if told in r["estimate"])

        def of(name, rows=rows):
            return cell(r["estimate"].get(name) for r in rows)
        sheet.rows.append([
            f"{workload} x{n}, {link_name(link)}",
            text(of("expected_bytes"), 1, 1e-6), text(cell(r["wire_bytes"] for r in rows), 1, 1e-6),
            text(error("expected_bytes", "wire_bytes"), 1, 100),
            text(of("estimated_ms"), 2, 1e-3), text(cell(r["total_s"] for r in rows), 2),
            text(error("estimated_ms", "total_s", 1e-3), 1, 100),
            text(of("store_bytes"), 1, 1e-6), text(cell(r["store_bytes"] for r in rows), 1, 1e-6)])
    return sheet


def left_out(view):
    return Sheet("Runs that there was no time for", ["run"],
                 [[run] for run in view.figures["left_out"]])


def failures(view):
    return Sheet("Runs that gave no figures", ["run", "reason"], [
        [f"{f['workload']} x{f['n']}, {link_name(f['link_mbit'])}, {f['mode']}"
         + (", seen from outside" if f["outside"] else ""), f["reason"]]
        for f in view.figures["failures"]])
