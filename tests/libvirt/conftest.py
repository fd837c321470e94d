# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""One rig serves all tests, since guests boot longer than they move."""

import os
import sys

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../integration")]

from virtlib.rig import Rig  # noqa: E402


@pytest.fixture(scope="session")
def session_rig():
    it = Rig()
    yield it
    it.close()


@pytest.fixture
def rig(session_rig):
    yield session_rig
    session_rig.net.shape(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """What the daemons said goes into the report of a test that fails."""
    outcome = yield
    report = outcome.get_result()
    rig = item.funcargs.get("session_rig")
    if report.failed and rig:
        for host in rig.hosts:
            for name in ("gangd.log", "log/libvirtd.log", "init.log"):
                report.sections.append((f"{host.name} {name}", host.read(name)[-3000:]))
