# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""What a gang costs to move, by every mode a user could pick: scripts/bench.

matrix    which cases are measured, in which order, and how long it may take
modes     the modes, as settings of both QEMUs
measure   one run: restore, migrate, compare; its row of figures
account   CPU seconds and shared memory of processes
pulse     a client outside, which notices when a guest stands still
floors    what the gang's memory could be sent in (gang_floor)
figures   the JSON file that all of it is kept in
stats     medians and spreads
targets   the ratios that have to be reached, met or missed
plots     SVG by gnuplot
tables    the tables of both
page      the HTML page
markdown  those of docs/performance.md

measure, modes and floors use ganglib, the harness of the integration tests;
the rest is pure and only reads rows.
"""
