# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""scripts/bench: one tiny run, and its pure parts on figures that are made up."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest

from ganglib import memory
from ganglib.process import TOP

BENCH = os.path.join(TOP, "tests/bench")
sys.path.insert(0, BENCH)

from gangbench import __main__ as bench_main  # noqa: E402
from gangbench import (figures, markdown, matrix, page, plots, pulse,  # noqa: E402
                       stats, tables, targets)

ROW = {"workload", "mode", "n", "link_mbit", "wire_bytes", "total_s", "downtime_ms", "cpu_src_s",
       "cpu_dst_s", "floor_bytes", "store_bytes", "ram_identical"}


def bench(*options):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([os.path.join(TOP, "tests/integration"), BENCH]))
    run = subprocess.run([sys.executable, "-m", "gangbench", *options], env=env,
                         capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    return run.stderr


# One tiny run

@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    files = {kind: str(folder / f"figures.{kind}") for kind in ("json", "html", "markdown")}
    options = ["--workloads", "idle", "--modes", "stock-multifd-zstd,gang-auto", "--sizes", "1",
               "--links", "1000", "--repetitions", "1", "--outside", "1", "--memory", "256"]
    for kind, path in files.items():
        options += [f"--{kind}", path]
    said = bench(*options)
    with open(files["json"]) as f:
        return json.load(f), files, options, said


def test_a_row_a_repetition_with_the_oracles_word(tiny):
    found = tiny[0]
    assert [row["mode"] for row in found["rows"]] == ["stock-multifd-zstd", "gang-auto"]
    assert found["failures"] == []
    for row in found["rows"]:
        assert ROW <= set(row)
        assert (row["workload"], row["n"], row["link_mbit"]) == ("idle", 1, 1000)
        assert row["wire_bytes"] > 1e6 and row["total_s"] > 0 and row["ram_identical"] is True
        assert len(row["downtime_ms"]) == 1
        assert row["cpu_src_s"] > 0 and row["cpu_dst_s"] > 0
    assert found["rows"][1]["gang"]["zero_pages"] > 0
    assert found["rows"][1]["store_bytes"] > 0 and found["rows"][1]["directory_bytes"] > 0


def test_the_client_outside_sees_an_outage_no_shorter_than_qemu_says(tiny):
    for row in tiny[0]["outside"]:
        assert "ram_identical" not in row  # the destination ran: the oracle could not look
        [outage], [downtime] = row["outage_ms"], row["downtime_ms"]
        assert downtime - pulse.PERIOD_MS <= outage < 10000


def test_progress_page_and_tables_name_every_mode(tiny):
    found, files, _, said = tiny
    assert "run 4 of 4" in said
    with open(files["html"]) as f:
        html = f.read()
    with open(files["markdown"]) as f:
        markdown_text = f.read()
    for mode in ("stock-multifd-zstd", "gang-auto"):
        assert plots.TITLES[mode] in html and plots.TITLES[mode] in markdown_text
    assert html.count("<svg") == html.count("</svg>") > 0
    # Self-contained: nothing is fetched.
    assert "<script" not in html and "<link" not in html and 'src="' not in html


def test_resume_measures_only_what_is_missing(tiny):
    found, files, options, _ = tiny
    before = found["rows"][0]
    with open(files["json"], "w") as f:
        json.dump({**found, "rows": found["rows"][:1]}, f)
    said = bench(*options, "--resume")
    assert "run 1 of 1" in said and "3 runs are kept" in said
    with open(files["json"]) as f:
        again = json.load(f)
    assert again["rows"][0] == before and len(again["rows"]) == 2


# The matrix

def test_standard_matrix_has_what_every_target_needs():
    cases = matrix.standard()
    for workload in matrix.WORKLOADS:
        for mode in matrix.MODES:
            for link in matrix.LINKS:
                assert matrix.Case(workload, mode, 4, link) in cases
    assert {case.n for case in cases if case.mode == "gang-auto"} == {1, 2, 4, 8}


def test_options_make_the_product_of_the_axes():
    assert matrix.cases() == matrix.standard()
    assert len(matrix.cases(full=True)) == 5 * 9 * 4 * 4
    assert matrix.cases(["idle"], ["gang-auto"], [2], [0]) == {matrix.Case("idle", "gang-auto", 2, 0)}
    assert {c.mode for c in matrix.cases(quick=True)} == set(matrix.QUICK_MODES)


def test_every_case_has_a_run_before_any_is_repeated_and_the_first_mode_changes():
    cases = matrix.cases(["idle"], None, [1], [0])
    runs = matrix.order(cases, 3, 1)
    assert len(runs) == len(set(runs)) == 4 * len(cases)
    assert {run.kind for run in runs} == {"rows", "outside"}
    firsts = [runs[i * len(cases)] for i in range(4)]
    assert [(r.repetition, r.outside) for r in firsts] == [(0, False), (0, True), (1, False), (2, False)]
    assert len({r.case.mode for r in firsts}) == 4


def test_the_targets_runs_bring_every_target_and_need_no_other_case():
    runs = matrix.target_runs(3, 1)
    assert len(runs) == len(set(runs))
    found = made_up([], runs=runs)
    assert all(v.got for v in targets.verdicts(found))
    # What is left when the budget ends it: all cases, before any is repeated.
    first = next(i for i, run in enumerate(runs) if run.repetition)
    assert {run.case for run in runs[:first]} == {run.case for run in runs}
    pairs = [[run.case.mode for run in runs if (run.case.workload, run.kind) == ("web", "rows")
              and run.repetition == i][:2] for i in range(2)]
    assert pairs[0] == pairs[1][::-1]


def test_what_the_budget_has_no_time_for_is_named(tmp_path, capsys):
    args = bench_main.arguments(["--targets", "--budget", "1", "--json", str(tmp_path / "f.json")])
    session = bench_main.Session.__new__(bench_main.Session)
    runs = matrix.target_runs(2, 0)
    session.args, session.figures = args, figures.empty()
    session.clock, session.began = matrix.Clock(runs, 1024), time.monotonic()
    assert not session.out_of_time(runs[0])
    session.began -= 50
    assert session.out_of_time(runs[0])
    session.leave_out(runs[-3:])
    assert session.figures["left_out"] == [str(run) for run in runs[-3:]]
    said = capsys.readouterr().err
    assert "leaves out 3 runs" in said and str(runs[-1].case) in said
    assert str(runs[-1]) in page.page({**made_up([], runs=runs[:4]),
                                       "left_out": session.figures["left_out"]})


def test_estimated_end_follows_what_runs_took():
    runs = matrix.order(matrix.cases(["idle"], None, [4], [1000]), 2, 0)
    clock = matrix.Clock(runs, 1024)
    guess = clock.left()
    first = clock.guess[runs[0]]
    clock.done(runs[0], 3 * first)
    assert clock.left() == pytest.approx(3 * (guess - first))


# Memory

def test_memory_is_touched_by_children_that_have_ended():
    def children():
        with open(f"/proc/self/task/{os.getpid()}/children") as f:
            return set(f.read().split())

    before = children()
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    assert memory.touch_memory(256) > 0
    # A fault may bring several pages at once, but no touch brings none.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt > used
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >= 256 * 1024 // memory.CHILDREN
    assert children() <= before


# The client outside

def test_pulses_and_counts_are_told_apart_wherever_the_client_begins():
    def digits(n):
        return bytes(0x80 | (n >> shift) & 0x7f for shift in (28, 21, 14, 7, 0))
    whole = b"\0" + digits(123456789) + b"\0\0\0" + digits(200) + b"\0"
    assert pulse.Decoder().feed(whole) == (5, 200)
    for cut in range(1, 6):  # a beginning that was not heard is no count
        assert pulse.Decoder().feed(whole[cut:9])[1] == (None if cut > 1 else 123456789)
    decoder = pulse.Decoder()  # a message may come in pieces
    assert [decoder.feed(bytes([byte]))[1] for byte in whole[:6]][-1] == 123456789


def test_the_longest_silence_is_the_outage():
    times = [i * 0.005 for i in range(200)] + [1.2 + i * 0.005 for i in range(100)]
    assert pulse.longest_gap(times, 0.5, 1.5) == pytest.approx(205, abs=0.2)
    assert pulse.longest_gap(times, 0.0, 0.5) == pytest.approx(5, abs=0.2)
    assert pulse.longest_gap([1.0], 0, 2) is None
    record = {"source": {"pulses": times[:200]}, "destination": {"pulses": times[200:]}}
    assert pulse.handover(record) == pytest.approx(205, abs=0.2)


def test_slowdown_is_the_part_of_the_speed_that_was_lost():
    ops = [[t / 10, t * 10] for t in range(31)] + [[3 + t / 10, 300 + t * 5] for t in range(1, 21)]
    source = {"ops": ops, "pulses": []}
    assert pulse.slowdown(source, 1, 3, 5) == pytest.approx(0.5, abs=0.02)
    assert pulse.slowdown(source, 1, 3, 3.2) is None  # too short to tell
    idle = {"ops": [[0, 0], [5, 0]], "pulses": [t * 0.005 for t in range(1000)]}
    assert pulse.slowdown(idle, 1, 3, 5) == pytest.approx(0, abs=0.02)


# Figures and statistics

def test_cells_and_their_text():
    assert stats.cell([]) is None and stats.cell([None]) is None
    c = stats.cell([3, 1, 2, None])
    assert (c.median, c.low, c.high, c.count) == (2, 1, 3, 3)
    assert c.text(1) == "2.0 [1.0 … 3.0]"
    assert stats.cell([5, 5]).text(0) == "5"


def test_ratios_are_of_the_same_repetition():
    ours = [{"repetition": i, "x": x} for i, x in enumerate((1, 4))]
    theirs = [{"repetition": i, "x": x} for i, x in enumerate((2, 4, 9))]
    assert stats.ratios(ours, theirs, "x") == [0.5, 1.0]
    assert stats.ratios(ours, theirs[1:], "x") == [1.0]


def made_up(cases, repetitions=3, runs=None):
    """Figures with known ratios: gang-auto needs a quarter of what stock needs, and
    1.1 of the floor."""
    found = figures.empty()
    found["machine"] = {"cpus": 2, "cpu": "a <CPU> & more", "memory_mb": 4096, "kernel": "6.1",
                        "accelerator": "tcg"}
    found["settings"] = {"memory_mb": 1024}
    runs = runs or matrix.order(cases, repetitions, 1)
    cases = {run.case for run in runs}
    for run in runs:
        case = run.case
        size = (110 + run.repetition) * 1e6 * (1 + 0.05 * (case.n - 1))
        if case.workload == "random":
            size *= 4
        elif case.mode != "gang-auto":
            size *= 4
        seconds = 2.0 if case.mode == "gang-auto" and case.workload != "random" else 8.0
        down = [100.0 if case.mode == "gang-auto" else 200.0] * case.n
        row = {"workload": case.workload, "mode": case.mode, "n": case.n,
               "link_mbit": case.link_mbit, "repetition": run.repetition, "build": "b",
               "wire_bytes": int(size), "total_s": seconds, "downtime_ms": down,
               "cpu_src_s": seconds, "cpu_dst_s": seconds, "floor_bytes": int(size / 1.1),
               "store_bytes": 1 << 20, "directory_bytes": 1 << 20, "mirror_bytes": 0,
               "slowdown": [0.1] * case.n, "gap_before_ms": [6.0] * case.n}
        if run.outside:
            row["outage_ms"] = [300.0 if case.mode == "gang-auto" else 250.0] * case.n
        else:
            row["ram_identical"] = True
        if run.estimate:  # too high by a tenth, and by a half
            row["estimate"] = {"expected_bytes": int(1.1 * size), "estimated_ms": 1500 * seconds,
                               "store_bytes": 1 << 20}
        found[run.kind].append(row)
    for workload, n in sorted({(c.workload, c.n) for c in cases}):
        found["floors"].append({
            "workload": workload, "n": n, "pages": 1000, "zero_pages": 100, "nonzero_pages": 900,
            "distinct_pages": 500, "distinct_zstd1_bytes": 4000, "subpage1024_zstd1_bytes": 3900,
            "subpage512_zstd1_bytes": 3800, "delta_zstd1_bytes": 3700, "delta_zstd3_bytes": 3600})
    return found


def test_verdicts_on_made_up_figures():
    found = made_up(matrix.standard())
    verdicts = {(v.group, v.what): v for v in targets.verdicts(found)}
    idle = verdicts["bytes", "idle: of stock multifd + zstd"]
    assert idle.met and idle.got.median == pytest.approx(0.25, abs=1e-6)
    assert verdicts["bytes", "web: of the floor"].got.median == pytest.approx(1.1, abs=1e-6)
    assert verdicts["time", "idle, 200 Mbit/s: of stock multifd + zstd"].met
    [scaling] = [v for v in verdicts.values() if v.group == "scaling"]
    assert scaling.got.median == pytest.approx(0.05, abs=1e-6) and scaling.met
    assert sum(v.group == "no duplicates" for v in verdicts.values()) == 2 * len(matrix.LINKS)
    downtime = [v.met for v in verdicts.values() if v.group == "downtime"]
    assert downtime == [True, True, False, False]  # QEMU's, and the client's


def test_one_case_that_misses_its_downtime_misses_the_target():
    found = made_up(matrix.standard())
    row = next(r for r in found["rows"] if (r["workload"], r["mode"], r["n"], r["link_mbit"]) ==
               ("redis", "gang-auto", 4, 200))
    row["downtime_ms"] = [100.0, 100.0, 100.0, 201.0]
    worst = next(v for v in targets.verdicts(found)
                 if v.group == "downtime" and v.what.startswith("worst, as QEMU"))
    assert not worst.met and "missed in 1 of 23 cases" in worst.what


def test_downtimes_are_compared_over_the_repetitions_that_both_have():
    cases = matrix.cases(["idle"], ["stock-multifd", "gang-auto"], [4], [1000])
    found = made_up(cases)
    found["rows"] = [row for row in found["rows"]
                     if row["mode"] == "gang-auto" or row["repetition"] == 0]
    late = next(r for r in found["rows"] if r["repetition"] == 2)
    late["downtime_ms"] = [900.0] * 4  # a run that stock QEMU has no like of
    [case] = targets.downtime_cases(stats.Table(found["rows"]))
    assert case.pair("worst") == case.pair("median") == (100.0, 200.0)
    found["rows"][0]["downtime_ms"], first = [100.0, 100.0, 100.0, 250.0], found["rows"][0]
    assert first["repetition"] == 0
    [case] = targets.downtime_cases(stats.Table(found["rows"]))
    expected = (100.0, 250.0) if first["mode"] == "stock-multifd" else (250.0, 200.0)
    assert case.pair("worst") == expected


def test_the_console_has_every_target_and_what_another_gang_mode_would_bring():
    found = made_up(matrix.standard())
    for row in found["rows"]:
        if row["mode"] == "gang-zstd":
            row["wire_bytes"] = row["wire_bytes"] // 40  # a tenth of stock's quarter
    text = markdown.plain(tables.verdicts(tables.View(found)))
    lines = text.splitlines()
    assert len(lines) == 2 + len(targets.verdicts(found))
    idle = next(line for line in lines if "idle: of stock multifd + zstd" in line)
    assert "0.250" in idle and "0.025 (delta + zstd)" in idle and idle.endswith(" met")


def test_what_was_not_measured_is_no_verdict():
    found = made_up(matrix.cases(["idle"], ["gang-auto"], [2], [1000]))
    by_word = {v.word for v in targets.verdicts(found)}
    assert by_word == {"met", "not measured"}
    assert "not measured" in page.page(found)


def test_the_page_of_a_whole_matrix(tmp_path):
    found = made_up([], runs=matrix.order(matrix.standard(), 3, 1) + matrix.estimated_runs(3))
    found["failures"] = [{"workload": "dirty", "mode": "stock-precopy", "n": 8, "link_mbit": 200,
                          "repetition": 0, "outside": False, "reason": "did <not> end"}]
    text = page.page(found)
    for anchor in page.NAMES:
        assert f'id="{anchor}"' in text
    assert "did &lt;not&gt; end" in text and "a &lt;CPU&gt; &amp; more" in text
    identifiers = [part.split('"')[0] for part in text.replace("'", '"').split(' id="')[1:]]
    assert len(identifiers) == len(set(identifiers))
    path = tmp_path / "figures.json"
    figures.save(found, path)
    assert figures.load(path) == found


def test_the_page_of_no_figures_at_all():
    assert "What it costs" in page.page(figures.empty())
    assert markdown.tables_of(figures.empty())


def test_markdown_tables_have_as_many_columns_everywhere():
    for sheet in markdown.sheets(tables.View(made_up(matrix.standard()))):
        assert sheet.rows and all(len(row) == len(sheet.head) for row in sheet.rows), sheet.title
        lines = markdown.render(sheet).splitlines()[2:]
        assert len({line.count("|") for line in lines if line}) == 1


def test_estimates_have_their_errors_and_are_no_rows():
    found = made_up([], runs=matrix.estimated_runs(2))
    assert not found["rows"] and len(found["estimates"]) == 2 * len(matrix.ESTIMATED)
    sheet = tables.estimates(tables.View(found))
    assert len(sheet.rows) == len(matrix.ESTIMATED)
    for row in sheet.rows:
        assert (row[3], row[6]) == ("10.0", "50.0") and len(row) == len(sheet.head)
    assert sheet in list(markdown.sheets(tables.View(found)))


def test_rows_of_programs_that_changed_are_measured_again():
    found = made_up(matrix.cases(["idle"], ["stock-multifd", "gang-auto"], [1], [0]), 1)
    for row in found["rows"] + found["outside"]:
        row["build"] = "old" if row["mode"] == "gang-auto" else "same"
    have = figures.measured(found, {"stock": "same", "gang": "new"})
    assert {identity[1] for identity, _ in have} == {"stock-multifd"}
    assert [row["mode"] for row in found["rows"]] == ["stock-multifd"]


def test_figures_of_something_else_are_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"rows": 3}')
    with pytest.raises(ValueError):
        figures.load(path)
