# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The demo's figures, in the form that others read."""

import json
import os
import subprocess
import sys

from ganglib.process import TOP


def test_the_demo_compares_both_modes_and_writes_the_figures(tmp_path):
    path = tmp_path / "figures.json"
    env = dict(os.environ, PYTHONPATH=os.path.join(TOP, "tests/integration"))
    out = subprocess.run([sys.executable, "-m", "ganglib.demo", "--vms", "2", "--memory", "256",
                          "--json", str(path)], env=env, check=True, capture_output=True,
                         text=True, timeout=250).stdout
    assert "RAM of 2 guests identical at hand-over: yes" in out
    figures = json.loads(path.read_text())
    assert figures["guests_alive_at_destination"] == 2
    assert [run["mode"] for run in figures["runs"]] == ["stock-multifd-zstd", "gang"]
    for run in figures["runs"]:
        assert set(run) == {"mode", "wire_bytes", "total_s", "vms"}
        assert run["wire_bytes"] > 0 and run["total_s"] > 0
        assert all(set(vm) == {"name", "downtime_ms", "ram_identical"} and vm["ram_identical"]
                   for vm in run["vms"])
    assert figures["runs"][1]["wire_bytes"] < figures["runs"][0]["wire_bytes"]
