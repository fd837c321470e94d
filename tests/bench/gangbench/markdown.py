# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The tables that docs/performance.md shows, from figures: pasted, never typed; and
the same for a terminal."""

from . import tables


def render(sheet):
    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"

    rule = ["---"] + ["---:"] * (len(sheet.head) - 1)
    return "\n".join([f"**{sheet.title}**", "", line(sheet.head), "|" + "|".join(rule) + "|",
                      *map(line, sheet.rows), ""])


def plain(sheet):
    """For a terminal: columns under each other."""
    lines = [list(map(str, cells)) for cells in [sheet.head, *sheet.rows]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join([sheet.title] + [
        "  " + "  ".join(text.ljust(width) for text, width in zip(cells, widths)).rstrip()
        for cells in lines])


def sheets(view):
    """One for each thing a reader asks, in the order of docs/performance.md."""
    yield tables.verdicts(view)
    for workload in view.workloads:
        if view.has(workload, view.n, view.link):
            yield tables.case(view, workload, view.n, view.link)
    for workload in view.workloads:
        if len(view.links_of(workload, view.n)) > 1:
            yield tables.by_link(view, workload, view.n)
    for workload in view.workloads:
        if len(view.sizes_of(workload, view.link)) > 1:
            yield from tables.scaling(view, workload, view.link)
    if view.figures["floors"]:
        yield tables.floors(view)
    for workload in view.workloads:
        pages = tables.pages(view, workload, view.n, view.link)
        if pages.rows:
            yield pages
    yield tables.downtimes(view, view.link)
    against = tables.downtime_verdicts(view)
    if against.rows:
        yield against
    memory = tables.memory(view)
    if memory.rows:
        yield memory
    if view.figures["estimates"]:
        yield tables.estimates(view)
    if view.figures["left_out"]:
        yield tables.left_out(view)
    if view.figures["failures"]:
        yield tables.failures(view)


def tables_of(figures):
    return "\n".join(render(sheet) for sheet in sheets(tables.View(figures)))
