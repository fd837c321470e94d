# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Children that never outlive us, and where the products are."""

import ctypes
import os
import signal
import subprocess
import time

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../.."))
BUILD = os.environ.get("GANG_BUILD", os.path.join(TOP, "build"))

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def product(name):
    """Path of build/bin/NAME, or of what the environment says instead."""
    override = os.environ.get("GANG_BIN_" + name.upper().replace("-", "_"))
    return override or os.path.join(BUILD, "bin", name)


def become_subreaper():
    """Orphaned grandchildren become our children, so that end() finds them."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Process:
    """A child with its output in a file.  Start it from a thread that lives as
    long as the child shall: the kernel ends it with that thread."""

    def __init__(self, argv, log, netns=None, env=None):
        if netns:  # ip execs the command, so the pid is the command's
            argv = ["ip", "netns", "exec", netns] + argv
        self.argv, self.log = argv, log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                preexec_fn=die_with_parent, env=env)
        self.pid = self.child.pid

    def alive(self):
        return self.child.poll() is None

    def output(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def kill(self, sig=signal.SIGKILL):
        if self.alive():
            self.child.send_signal(sig)

    def end(self, timeout=10):
        """SIGTERM, then SIGKILL; the exit status."""
        self.kill(signal.SIGTERM)
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.child.wait(10)


def wait_for(condition, timeout, what, poll=0.05):
    """The first true value of condition(), or a TimeoutError that names it."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout} s for {what() if callable(what) else what}")
        time.sleep(poll)
