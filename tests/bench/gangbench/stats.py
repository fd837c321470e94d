# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Medians and spreads."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Several values of one quantity: the median, and the least and the most,
    which says more of three values than a deviation."""
    median: float
    low: float
    high: float
    count: int

    def scaled(self, factor):
        return Cell(self.median * factor, self.low * factor, self.high * factor, self.count)

    def text(self, digits=1):
        """"12.3 [12.1 … 12.9]", without the spread where it is none."""
        middle = f"{self.median:,.{digits}f}"
        low, high = f"{self.low:,.{digits}f}", f"{self.high:,.{digits}f}"
        return middle if low == high else f"{middle} [{low} … {high}]"


def cell(values):
    """None of no values.  Values that are None were not measured."""
    values = [v for v in values if v is not None]
    if not values:
        return None
    return Cell(statistics.median(values), min(values), max(values), len(values))


class Table:
    """Rows by what they measure."""

    def __init__(self, rows):
        self.rows = {}
        for row in rows:
            key = (row["workload"], row["mode"], row["n"], row["link_mbit"])
            self.rows.setdefault(key, []).append(row)
        for group in self.rows.values():
            group.sort(key=lambda row: row["repetition"])

    def get(self, workload, mode, n, link_mbit):
        return self.rows.get((workload, mode, n, link_mbit), [])

    def cell(self, workload, mode, n, link_mbit, value):
        """value: a field's name, or a function of a row; lists are taken apart."""
        function = value if callable(value) else lambda row: row.get(value)
        found = []
        for row in self.get(workload, mode, n, link_mbit):
            v = function(row)
            found += v if isinstance(v, list) else [v]
        return cell(found)

    def axis(self, at):
        """The values there are: 0 workload, 1 mode, 2 n, 3 link_mbit."""
        return {key[at] for key in self.rows}


def ratios(ours, theirs, value):
    """Repetition by repetition, ours over theirs: what drifts with time is in
    both.  A list of ratios."""
    function = value if callable(value) else lambda row: row.get(value)
    other = {row["repetition"]: function(row) for row in theirs}
    return [function(row) / other[row["repetition"]] for row in ours
            if function(row) is not None and other.get(row["repetition"])]
