# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Plots as SVG, to stand in a page: gnuplot draws, this file says where each
rectangle, line and dot is, so that all plots look alike."""

import itertools
import re
import statistics
import subprocess

TITLES = {
    "stock-precopy": "stock precopy",
    "stock-multifd": "stock multifd",
    "stock-multifd-zstd": "stock multifd + zstd",
    "stock-xbzrle": "stock xbzrle",
    "gang-page": "gang, page",
    "gang-subpage": "gang, sub-page",
    "gang-delta": "gang, delta",
    "gang-zstd": "gang, delta + zstd",
    "gang-auto": "gang (auto)",
}
SHORT = {mode: title.replace("stock ", "").replace("gang, ", "gang ").replace("(auto)", "auto")
         for mode, title in TITLES.items()}  # for axes
COLORS = {  # what there is: greys and amber; ours: from light to dark as parts are added
    "stock-precopy": "#c9cdd2",
    "stock-multifd": "#8d949e",
    "stock-multifd-zstd": "#e0962a",
    "stock-xbzrle": "#5d646d",
    "gang-page": "#b5d8e8",
    "gang-subpage": "#7fbad6",
    "gang-delta": "#4596bd",
    "gang-zstd": "#1f6f9c",
    "gang-auto": "#0b4263",
}
FLOOR_COLOR, INK, FAINT = "#c0392b", "#333333", "#e3e5e8"
_serial = itertools.count(1)


def _number(value):
    return f"{value:.6g}"


class Plot:
    """One plot under construction: gnuplot commands and data."""

    def __init__(self, width, height, ylabel, label):
        self.size, self.label = (width, height), label
        self.data, self.draws = [], []
        self.settings = [
            f"set border 1 lc rgb '{INK}' lw 0.6",
            f"set grid ytics back lc rgb '{FAINT}' lt 1 lw 0.8",
            f"set tics scale 0 nomirror textcolor rgb '{INK}'",
            f"set ylabel '{ylabel}' textcolor rgb '{INK}' offset 0.5",
            "set key off", "set style fill solid 1.0 noborder",
            "set yrange [*<0:*]", "set format y '%.10g'", "set rmargin 2",
        ]

    def set(self, *commands):
        self.settings += commands

    def draw(self, rows, columns, style):
        """rows of numbers (or quoted texts), with a style of gnuplot's."""
        if not rows:
            return
        name = f"$d{len(self.data)}"
        lines = "\n".join(" ".join(v if isinstance(v, str) else _number(v) for v in row)
                          for row in rows)
        self.data.append(f"{name} << EOD\n{lines}\nEOD")
        self.draws.append(f"{name} using {columns} with {style}")

    def xtics(self, names):
        """names: (text, x)"""
        self.set("set xtics (" + ", ".join(f"'{text}' {_number(x)}" for text, x in names) + ")")

    def svg(self):
        if not self.draws:
            return ""
        number, (width, height) = next(_serial), self.size
        script = "\n".join([
            f"set terminal svg size {width},{height} font 'sans-serif,12' name 'plot{number}'"
            " background rgb 'white' noenhanced",
            *self.settings, *self.data, "plot " + ", ".join(self.draws)])
        out = subprocess.run(["gnuplot"], input=script + "\n", check=True, capture_output=True,
                             text=True, timeout=60)
        if not out.stdout.rstrip().endswith("</svg>"):
            raise RuntimeError(f"gnuplot drew nothing: {out.stderr[:500]}")
        return self._inline(out.stdout, number)

    def _inline(self, svg, number):
        """Without what only a file of its own needs, and with identifiers that
        no other plot of the page has."""
        body = svg[svg.index("<svg"):]
        body = re.sub(r"<(title|desc)>.*?</\1>", "", body, flags=re.S)
        body = re.sub(r"\bid=(['\"])", rf"id=\1p{number}-", body)
        body = re.sub(r"href=(['\"])#", rf"href=\1#p{number}-", body)
        body = re.sub(r"url\(#", f"url(#p{number}-", body)
        body = re.sub(r'font-family="[^"]*"', 'font-family="inherit"', body)
        body = re.sub(r"\n\s*\n+", "\n", body)
        label = self.label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        return re.sub(r"<svg[^>]*>",
                      f'<svg viewBox="0 0 {self.size[0]} {self.size[1]}" role="img" '
                      f'aria-label="{label}" xmlns="http://www.w3.org/2000/svg" '
                      'xmlns:xlink="http://www.w3.org/1999/xlink">', body, count=1, flags=re.S)


def _spreads(plot, cells, color=INK):
    """cells: (x, Cell); a thin line from the least to the most."""
    plot.draw([(x, c.low, 0, c.high - c.low) for x, c in cells if c.low != c.high], "1:2:3:4",
              f"vectors nohead lc rgb '{color}' lw 1")


def bars(groups, modes, value, ylabel, label, floor=None, width=1000, height=330):
    """A cluster of bars for each group, a bar a mode that it has.  value(group, mode):
    a Cell or None; floor(group): a number or None."""
    plot = Plot(width, height, ylabel, label)
    left, spreads, floors, ticks = 0, [], [], []
    rectangles = {mode: [] for mode in modes}
    for group in groups:
        cells = [(mode, value(group, mode)) for mode in modes]
        cells = [(mode, c) for mode, c in cells if c]
        if not cells:
            continue
        for m, (mode, c) in enumerate(cells):
            x = left + m
            rectangles[mode].append((x, c.median / 2, x - 0.43, x + 0.43, 0, c.median))
            spreads.append((x, c))
        ticks.append((group, left + (len(cells) - 1) / 2))
        f = floor(group) if floor else None
        if f:
            floors.append((left - 0.6, f, len(cells) + 0.2, 0))
        left += len(cells) + 1.5
    for mode in modes:
        plot.draw(rectangles[mode], "1:2:3:4:5:6", f"boxxyerror lc rgb '{COLORS[mode]}'")
    _spreads(plot, spreads)
    plot.draw(floors, "1:2:3:4", f"vectors nohead lc rgb '{FLOOR_COLOR}' lw 1.8 dt (7,4)")
    plot.xtics(ticks)
    plot.set(f"set xrange [-1.2:{_number(left - 1.3)}]")
    return plot.svg()


def stacked(modes, value, parts, ylabel, label, width=1000, height=300):
    """A bar a mode, of parts on each other.  value(mode): a number a part, or
    None; parts: their colours."""
    plot = Plot(width, height, ylabel, label)
    ticks = []
    for m, mode in enumerate(modes):
        ticks.append((SHORT[mode], m))
        at, pieces = 0.0, value(mode) or []
        for color, piece in zip(parts, pieces):
            plot.draw([(m, at + piece / 2, m - 0.32, m + 0.32, at, at + piece)], "1:2:3:4:5:6",
                      f"boxxyerror lc rgb '{color}'")
            at += piece
        if pieces:
            plot.draw([(m, at, f'"{at:.1f}"')], "1:2:3",
                      f"labels offset 0,0.7 font ',11' textcolor rgb '{INK}'")
    plot.xtics(ticks)
    plot.set(f"set xrange [-0.6:{len(modes) - 0.4}]")
    return plot.svg()


def lines(xs, names, modes, value, ylabel, label, log=False, width=490, height=320):
    """A line a mode over xs, which stand at equal distances under their names.
    value(x, mode): a Cell or None; modes with a single point have no line to draw."""
    plot, seen = Plot(width, height, ylabel, label), []
    for mode in modes:
        points = [(i, value(x, mode)) for i, x in enumerate(xs)]
        points = [(i, c) for i, c in points if c]
        if len(points) < 2:
            continue
        middles = [(i, c.median) for i, c in points]
        seen += [limit for _, c in points for limit in (c.low, c.high)]
        wide = 2.6 if mode in ("gang-auto", "stock-multifd-zstd") else 1.4
        plot.draw(middles, "1:2", f"lines lc rgb '{COLORS[mode]}' lw {wide}")
        plot.draw(middles, "1:2", f"points lc rgb '{COLORS[mode]}' pt 7 ps 0.5")
        _spreads(plot, points, COLORS[mode])
    plot.xtics(list(zip(names, range(len(xs)))))
    plot.set(f"set xrange [-0.3:{len(xs) - 0.7}]")
    if log and seen:
        low, high = min(seen) / 1.25, max(seen) * 1.25
        ticks = [digit * 10.0 ** power for power in range(-3, 7) for digit in (1, 2, 5)]
        ticks = [f"{tick:g}" for tick in ticks if low <= tick <= high]
        plot.set("set logscale y", f"set yrange [{_number(low)}:{_number(high)}]",
                 f"set ytics ({', '.join(ticks)})")
    return plot.svg()


def dots(categories, kinds, value, ylabel, label, width=1000, height=330):
    """Every value as a dot, and its median as a bar across.  kinds: name ->
    colour; value(category, kind): a list."""
    plot = Plot(width, height, ylabel, label)
    ticks = []
    for c, category in enumerate(categories):
        ticks.append((SHORT.get(category, category), c))
        for k, (kind, color) in enumerate(kinds.items()):
            values = sorted(value(category, kind))
            if not values:
                continue
            middle = c + (k - (len(kinds) - 1) / 2) * 0.32
            # Side by side in turns, so that dots of like values can be told apart.
            plot.draw([(middle + ((i * 5) % 7 - 3) * 0.024, v) for i, v in enumerate(values)],
                      "1:2", f"points pt 7 ps 0.42 lc rgb '{color}'")
            plot.draw([(middle - 0.12, statistics.median(values), 0.24, 0)], "1:2:3:4",
                      f"vectors nohead lc rgb '{color}' lw 2.2")
    plot.xtics(ticks)
    plot.set(f"set xrange [-0.6:{len(categories) - 0.4}]")
    return plot.svg()


def ladder(steps, label, floors=(), width=490, height=None):
    """Horizontal bars with their values: (name, colour, MB).  floors: (name,
    MB), as lines from top to bottom."""
    height = height or 46 + 27 * len(steps)
    plot = Plot(width, height, "", label)
    most = max([mb for _, _, mb in steps] + [1])
    for i, (_, color, mb) in enumerate(steps):
        y = len(steps) - 1 - i
        plot.draw([(mb / 2, y, 0, mb, y - 0.36, y + 0.36)], "1:2:3:4:5:6",
                  f"boxxyerror lc rgb '{color}'")
        plot.draw([(mb, y, f'"{mb:,.0f}"')], "1:2:3",
                  f"labels left offset 0.6,0 font ',11' textcolor rgb '{INK}'")
    for _, mb in floors:
        plot.draw([(mb, -0.6, 0, len(steps) + 0.1)], "1:2:3:4",
                  f"vectors nohead lc rgb '{FLOOR_COLOR}' lw 1.6 dt (7,4)")
    names = ", ".join(f"'{name}' {len(steps) - 1 - i}" for i, (name, _, _) in enumerate(steps))
    plot.set("unset grid", f"set ytics ({names})", f"set yrange [-0.6:{len(steps) - 0.4}]",
             f"set xrange [0:{_number(most * 1.18)}]", "set xtics", "unset ylabel",
             f"set grid xtics back lc rgb '{FAINT}' lt 1 lw 0.8", "set border 0",
             "set format x '%.10g'", "set lmargin 17")
    return plot.svg()
