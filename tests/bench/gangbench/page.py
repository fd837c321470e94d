# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The page: one HTML file that needs no other."""

import html
import os

from . import plots, tables
from .matrix import GANG
from .plots import COLORS, TITLES
from .stats import cell, ratios
from .targets import OURS, ZSTD, link_name

CSS = os.path.join(os.path.dirname(__file__), "page.css")
SOURCE_COLOR, DESTINATION_COLOR = "#4596bd", "#b5d8e8"
QEMU_COLOR, CLIENT_COLOR = "#8d949e", "#0b4263"
# What the paper had, by the names of its abstract, which had no zstd; and what stands
# for them today.
PAPER_MODES = ("stock-precopy", "gang-page", "gang-subpage", "gang-delta")
TODAY = (ZSTD, OURS)

esc = html.escape


# Pieces

def legend(colors, line=None):
    """colors: name -> colour; line: what the dashed line is."""
    items = [f'<span><i style="background:{color}"></i>{esc(name)}</span>'
             for name, color in colors.items()]
    if line:
        items.append(f'<span><i class="line"></i>{esc(line)}</span>')
    return f'<div class="legend">{"".join(items)}</div>'


def mode_legend(modes, line=None):
    return legend({TITLES[m]: COLORS[m] for m in modes}, line)


def figure(title, svg, caption="", before=""):
    """Nothing where there is no plot."""
    if not svg:
        return ""
    caption = f"<figcaption>{esc(caption)}</figcaption>" if caption else ""
    return f"<figure><h3>{esc(title)}</h3>{before}{svg}{caption}</figure>"


def pair(*figures):
    found = "".join(figures)
    return f'<div class="pair">{found}</div>' if found else ""


def by_workload(view, draw):
    """draw(workload, modes, width): a figure of each workload that has something to
    compare; those of few modes stand side by side."""
    narrow, found = [], []
    for workload in view.workloads:
        if view.has(workload, view.n, view.link):
            modes = view.modes_of(workload, view.n, view.link)
            few = len(modes) < 5
            (narrow if few else found).append(draw(workload, modes, 490 if few else 1000))
    return "".join(found) + pair(*narrow)


def table(sheet, left=False):
    if not sheet.rows:
        return ""
    head = "".join(f"<th>{esc(h)}</th>" for h in sheet.head)
    body = []
    for r, row in enumerate(sheet.rows):
        cells = []
        for c, value in enumerate(row):
            mark = sheet.marks.get((r, c))
            middle, bracket, spread = str(value).partition(" [")
            spread = f"<small>[{esc(spread)}</small>" if bracket and spread.endswith("]") else ""
            value = esc(middle if spread else str(value)) + spread
            cells.append(f'<td class="{mark}">{value}</td>' if mark else f"<td>{value}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (f'<div class="table"><table{" class=left" if left else ""}>'
            f"<caption>{esc(sheet.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>")


def details(summary, *sheets):
    found = "".join(table(sheet) for sheet in sheets)
    return f"<details><summary>{esc(summary)}</summary>{found}</details>" if found else ""


def section(anchor, title, text, *parts):
    found = "".join(parts)
    if not found:
        return ""
    return f'<section id="{anchor}"><h2>{esc(title)}</h2><p>{esc(text)}</p>{found}</section>'


# Sections

def cards(view):
    found = []

    def add(number, text):
        found.append(f'<div class="card"><b>{esc(number)}</b><span>{esc(text)}</span></div>')

    for workload in view.workloads:
        if workload == "random":
            continue
        ours = view.rows.get(workload, OURS, view.n, view.link)
        theirs = view.rows.get(workload, ZSTD, view.n, view.link)
        size, time = (cell(ratios(ours, theirs, v)) for v in ("wire_bytes", "total_s"))
        if size and time:
            add(f"{size.median:.0%}", f"of the bytes and {time.median:.0%} of the time that stock "
                                      f"multifd + zstd needs: {workload}")
    if not found:
        return ""
    return (f'<div class="cards">{"".join(found)}</div><p class="note">{esc(TITLES[OURS])}, '
            f"{esc(view.guests(view.n))}, {esc(link_name(view.link))}, medians.</p>")


def traffic(view):
    n, link = view.n, view.link
    workloads = [w for w in view.workloads if view.has(w, n, link)]

    def chart(value, factor, ylabel, label, floor=None):
        def get(workload, mode):
            c = view.rows.cell(workload, mode, n, link, value)
            return c.scaled(factor) if c else None
        return plots.bars(workloads, view.modes, get, ylabel, label, floor)

    def floor(workload):
        f = view.floor(workload, n)
        return f / 1e6 if f else None

    line = "the floor: delta in chunks, zstd -3" if any(map(floor, workloads)) else None
    return section(
        "traffic", "Traffic and time",
        f"{view.guests(n)}, all migrations started together over {link_name(link)}. Bars are medians, "
        "thin lines the least and the most.",
        figure("Bytes on the wire", chart("wire_bytes", 1e-6, "MB", "bytes on the wire by workload "
                                          "and mode", floor),
               "Both directions, counted at the interface.", mode_legend(view.modes, line)),
        figure("Total time", chart("total_s", 1, "s", "total time by workload and mode"),
               "From the first migration's start to the last one's end.", mode_legend(view.modes)),
        details("The figures", *(tables.case(view, w, n, link) for w in workloads)))


def by_link(view):
    plots_of, drawn = [], set()
    for workload in view.workloads:
        links = view.links_of(workload, view.n)
        if len(links) < 2:
            continue
        drawn |= set(view.modes_with([(workload, view.n, link) for link in links]))
        plots_of.append(figure(
            workload, plots.lines(
                links, [link_name(link) for link in links], view.modes,
                lambda link, mode, w=workload: view.rows.cell(w, mode, view.n, link, "total_s"),
                "s", f"total time of {workload} guests by link and mode", log=True)))
    if not plots_of:
        return ""
    return section(
        "links", "Which link",
        f"Total time of {view.guests(view.n)} by the rate of the link, on a logarithmic scale. "
        "On a slow link bytes decide, on a fast one the CPU does.",
        mode_legend([m for m in view.modes if m in drawn]), pair(*plots_of),
        details("The figures", *(tables.by_link(view, w, view.n) for w in view.workloads
                                 if len(view.links_of(w, view.n)) > 1)))


def scaling(view):
    parts = []
    for workload in view.workloads:
        sizes = view.sizes_of(workload, view.link)
        if len(sizes) < 2:
            continue

        def get(n, mode, value, factor, w=workload):
            c = view.rows.cell(w, mode, n, view.link, value)
            return c.scaled(factor) if c else None

        names = [str(n) for n in sizes]
        modes = view.modes_with([(workload, n, view.link) for n in sizes])
        parts.append(mode_legend(modes) + pair(
            figure(f"{workload}: bytes by gang size",
                   plots.lines(sizes, names, view.modes, lambda n, m, get=get: get(
                       n, m, "wire_bytes", 1e-6), "MB", f"bytes of {workload} guests by gang size")),
            figure(f"{workload}: time by gang size",
                   plots.lines(sizes, names, view.modes, lambda n, m, get=get: get(
                       n, m, "total_s", 1), "s", f"time of {workload} guests by gang size"))))
        parts += map(table, tables.scaling(view, workload, view.link))
    return section("scaling", "How many guests",
                   f"Gangs of clones over {link_name(view.link)}. What counts is the slope: what one "
                   "more guest costs.", *parts)


def ablation(view):
    modes = [m for m in view.modes if m in GANG or m in ("stock-multifd", ZSTD)]
    if not any(m in GANG for m in modes):
        return ""
    ladders = []
    for workload in view.workloads:
        steps = []
        for mode in modes:
            c = view.rows.cell(workload, mode, view.n, view.link, "wire_bytes")
            if c:
                steps.append((TITLES[mode], COLORS[mode], c.median / 1e6))
        floor = view.floor(workload, view.n)
        if len(steps) > 1:
            ladders.append(figure(workload, plots.ladder(
                steps, f"bytes of {workload} guests as parts of the coder are added",
                [("floor", floor / 1e6)] if floor else [])))
    return section(
        "ablation", "What each part brings",
        f"MB on the wire as parts are switched on: pages, blocks of pages, deltas, zstd. "
        f"{view.guests(view.n)}, {link_name(view.link)}; the dashed line is the floor.",
        pair(*ladders),
        '<p>The floor is found by reading the same guests’ memory, stopped, one after the '
        "other, each free to refer to all that came before:</p>" if view.figures["floors"] else "",
        table(tables.floors(view)),
        details("How the pages travelled", *(tables.pages(view, w, view.n, view.link)
                                             for w in view.workloads)))


def downtime(view):
    def draw(workload, modes, width):
        def values(mode, kind):
            source, value = ((view.rows, "downtime_ms") if kind == "QEMU" else
                             (view.outside, "outage_ms"))
            return [v for row in source.get(workload, mode, view.n, view.link)
                    for v in row[value] if v is not None]

        return figure(workload, plots.dots(
            modes, {"QEMU": QEMU_COLOR, "client": CLIENT_COLOR}, values, "ms",
            f"downtimes of {workload} guests by mode", width, height=210))

    return section(
        "downtime", "Downtime",
        f"Every dot is a VM, the bar across their median. {view.guests(view.n)}, "
        f"{link_name(view.link)}. The client outside hears a beat of the guest every 5 ms; its outage is "
        "the longest silence, whatever the cause.",
        legend({"as QEMU reports it": QEMU_COLOR, "as seen from outside": CLIENT_COLOR}),
        by_workload(view, draw), table(tables.downtime_verdicts(view)),
        details("The figures", *(tables.downtimes(view, link) for link in view.links)))


def cpu(view):
    def draw(workload, modes, width):
        def parts(mode):
            return [view.rows.cell(workload, mode, view.n, view.link, v).median
                    for v in ("cpu_src_s", "cpu_dst_s")]

        return figure(workload, plots.stacked(
            modes, parts, (SOURCE_COLOR, DESTINATION_COLOR), "s",
            f"CPU seconds of {workload} guests by mode", width, height=210))

    return section(
        "cpu", "CPU seconds",
        "Of all QEMU processes and gangd, from start to completion; the guests run inside the "
        "source’s (under TCG here), so long migrations pay for that as well. "
        f"{view.guests(view.n)}, {link_name(view.link)}.",
        legend({"source": SOURCE_COLOR, "destination": DESTINATION_COLOR}), by_workload(view, draw))


def guests(view):
    workloads = [w for w in view.workloads if view.has(w, view.n, view.link)]

    def get(workload, mode):
        c = view.rows.cell(workload, mode, view.n, view.link, "slowdown")
        return c.scaled(100) if c else None

    return section(
        "guests", "What the guests feel",
        "Operations a second that a guest lost while it migrated, against the two seconds before, in "
        "percent; what idle guests do is beat. "
        f"{view.guests(view.n)}, {link_name(view.link)}.",
        figure("Slow-down", plots.bars(workloads, view.modes, get, "%",
                                       "slow-down of the guests by workload and mode", height=260),
               before=mode_legend(view.modes)))


def beside_paper(view):
    """What the paper plots, by the names of its abstract."""
    modes = [m for m in PAPER_MODES + TODAY if m in view.modes]
    sizes = view.sizes_of("idle", view.link)
    parts = []
    if len(modes) > 1 and len(sizes) > 1:
        for value, factor, unit, name in (("wire_bytes", 1e-6, "MB", "Network traffic"),
                                          ("total_s", 1, "s", "Total migration time")):
            def get(n, mode, value=value, factor=factor):
                c = view.rows.cell("idle", mode, n, view.link, value)
                return c.scaled(factor) if c else None

            parts.append(figure(f"{name}, by the number of idle VMs", plots.lines(
                sizes, [str(n) for n in sizes], modes, get, unit, f"{name} by gang size")))
    bars = []
    workloads = [w for w in view.workloads if w != "random" and view.has(w, view.n, view.link)]
    if len(modes) > 1:
        for value, factor, unit, name in (("wire_bytes", 1e-6, "MB", "Network traffic"),
                                          ("total_s", 1, "s", "Total migration time")):
            def of_workload(w, mode, value=value, factor=factor):
                c = view.rows.cell(w, mode, view.n, view.link, value)
                return c.scaled(factor) if c else None

            bars.append(figure(f"{name}, by workload", plots.bars(
                workloads, modes, of_workload, unit, f"{name} by workload", width=490, height=300)))
    if not parts and not bars:
        return ""
    return section(
        "paper", "Beside the paper",
        "Deshpande, Wang and Gopalan (HPDC 2011) report traffic, total time and downtime of gangs over "
        "Gigabit Ethernet (figures 9, 12 and 13, and a table of downtimes). Their text was not at hand "
        "when this page was made, so their values are not reproduced, and which of the plots below "
        "stands for which of their figures is left open: these are the quantities and the techniques that "
        "its abstract names, measured here, on the same kind of link. It speaks of de-duplication and "
        "differential compression only, so the gang modes are without general compression; what stock QEMU "
        "and this fork do today stands beside them.",
        mode_legend(modes), pair(*parts), pair(*bars), table(tables.downtimes(view, view.link)))


def estimate(view):
    if not view.figures["estimates"]:
        return ""
    return section(
        "estimate", "Estimates",
        "gangctl estimate scans running guests and makes the packets of a first round without sending "
        "them; then these same gangs moved. The errors are of each run, their median, least and most.",
        table(tables.estimates(view)))


def settings(view):
    m = view.figures["machine"]
    facts = [
        f"{m.get('cpus', '?')} CPUs ({m.get('cpu', '?')}), {m.get('memory_mb', 0) / 1024:.0f} GiB, Linux "
        f"{m.get('kernel', '?')}; both hosts are network namespaces on it and share its CPUs. Guests run under "
        f"{m.get('accelerator', '?').upper()}.",
        "Every run restores the same saved guests, waits three seconds and migrates all of them at once; "
        "multifd has two channels in every mode, xbzrle a cache of 256 MiB, max-bandwidth is not "
        "limited, downtime-limit is QEMU’s 300 ms.",
        "A repetition compares all RAM of every guest, source against destination, before the "
        "destination runs. The client outside needs a destination that runs at once, so it has runs of "
        "its own.",
    ]
    missing = sorted({name for row in view.figures["rows"] for name in row.get("not_set", [])})
    if missing:
        facts.append(f"The fork measured here has no {' and no '.join(missing)}: its gang modes differ "
                     "only in what it has.")
    items = "".join(f"<li>{esc(fact)}</li>" for fact in facts)
    return (f'<section id="how"><h2>How it was measured</h2><ul>{items}</ul>'
            f'{details("Shared memory", tables.memory(view))}'
            f'{details("Left out", tables.left_out(view))}'
            f'{table(tables.failures(view), left=True)}</section>')


def warnings(view):
    wrong = [row for row in view.figures["rows"] if not row["ram_identical"]]
    found = ""
    if wrong:
        found += f'<p class="warning">In {len(wrong)} runs the RAM that arrived differs: worthless.</p>'
    if view.figures["failures"]:
        found += (f'<p class="warning">{len(view.figures["failures"])} runs gave no figures; '
                  'they are listed at the end.</p>')
    return found


SECTIONS = (traffic, by_link, scaling, ablation, downtime, cpu, guests, estimate, beside_paper)
NAMES = {"traffic": "Traffic and time", "links": "Links", "scaling": "Gang size",
         "ablation": "Ablation", "downtime": "Downtime", "cpu": "CPU", "guests": "Guests", "estimate": "Estimates",
         "paper": "The paper", "how": "How"}


def page(figures):
    view = tables.View(figures)
    identical = sum(row["ram_identical"] for row in figures["rows"])
    lead = (f"{len(figures['rows']) + len(figures['outside'])} runs. RAM compared, and identical, in "
            f"{identical} of {len(figures['rows'])} repetitions.")
    body = "".join(part(view) for part in SECTIONS) + settings(view)
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in NAMES.items()
                    if f'id="{anchor}"' in body)
    with open(CSS) as f:
        css = f.read().split("*/\n", 2)[2]
    return f"""<!DOCTYPE html>
<!-- SPDX-License-Identifier: GPL-2.0-or-later -->
<!-- Copyright the gang migration authors -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Live gang migration: what it costs</title>
<style>
{css}</style>
</head>
<body>
<header><div><h1>What it costs to move a gang</h1>
<p>Guests that are clones of one image move from one host to another, by every mode of stock QEMU and by
gang migration, which sends once what they have in common. {esc(lead)}</p></div></header>
<main>
<nav>{links}</nav>
{warnings(view)}{cards(view)}
{table(tables.verdicts(view), left=True)}
{body}
</main>
</body>
</html>
"""
