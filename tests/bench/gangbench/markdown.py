# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The tables that docs/performance.md shows, from figures: pasted, never typed."""

from . import tables


def render(sheet):
    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"

    rule = ["---"] + ["---:"] * (len(sheet.head) - 1)
    return "\n".join([f"**{sheet.title}**", "", line(sheet.head), "|" + "|".join(rule) + "|",
                      *map(line, sheet.rows), ""])


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
            yield tables.scaling(view, workload, view.link)
    if view.figures["floors"]:
        yield tables.floors(view)
    for workload in view.workloads:
        pages = tables.pages(view, workload, view.n, view.link)
        if pages.rows:
            yield pages
    yield tables.downtimes(view, view.link)
    memory = tables.memory(view)
    if memory.rows:
        yield memory
    if view.figures["failures"]:
        yield tables.failures(view)


def tables_of(figures):
    return "\n".join(render(sheet) for sheet in sheets(tables.View(figures)))
