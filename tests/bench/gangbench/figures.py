# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The JSON file that all figures are kept in.

    rows       one a repetition, with the oracle's word
    outside    the same, of runs whose guest ran on at once: no oracle, but the
               outage that a client saw
    estimates  as rows, of runs that gangctl estimated before: "estimate" is its report
    floors     gang_floor's figures, by workload and n
    failures   runs that gave no row, and why
    left_out   runs that the budget had no time for
    machine, settings   what has to be known to read the rest
"""

import json
import os

VERSION = 1


def empty():
    return {"version": VERSION, "machine": {}, "settings": {}, "rows": [], "outside": [],
            "estimates": [], "floors": [], "failures": [], "left_out": []}


def load(path):
    with open(path) as f:
        figures = json.load(f)
    if figures.get("version") != VERSION or not isinstance(figures.get("rows"), list):
        raise ValueError(f"{path} does not hold figures of this bench")
    return {**empty(), **figures}


def save(figures, path):
    """In one step: whoever reads it, at any moment, sees whole figures."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as f:
        json.dump(figures, f, indent=1)
        f.write("\n")
    os.rename(temporary, path)


def identity(row):
    return (row["workload"], row["mode"], row["n"], row["link_mbit"], row["repetition"])


def measured(figures, builds):
    """What need not be measured again: (identity, kind) of the rows that
    today's programs would give.  Rows and failures of other builds are dropped."""
    have = set()
    for kind in ("rows", "outside", "estimates"):
        figures[kind] = [row for row in figures[kind]
                         if row["build"] == builds["gang" if "gang-" in row["mode"] else "stock"]]
        have |= {(identity(row), kind) for row in figures[kind]}
    figures["failures"], figures["left_out"] = [], []  # they are tried again
    return have
