# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Memory of this machine that its own host has supplied already.

A machine that is itself virtual gets memory from its host at first touch, at five
to thirty times the cost of a page that it had before, and may have given back what
was free for long.  What a migration costs would depend on what ran before it; so
each run that is compared with another one finds its memory touched."""

import os
import subprocess
import sys
import time

from .process import die_with_parent

CHILDREN = min(4, os.cpu_count() or 1)
FREE_PART = 0.8  # of what is available: the touch must not drive anybody out
# A sacrifice to the OOM killer before all others, were there less than it seemed.
TOUCH = """\
import mmap, sys
open("/proc/self/oom_score_adj", "w").write("1000")
mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
"""


def available_mib():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) // 1024


def wanted_mib(guests, memory_mib):
    """What a migration takes at most: the destinations' memory, and the gang's store,
    mirror and directory.  The sources have theirs."""
    return guests * memory_mib * 3 // 2


def touch_memory(mib):
    """Takes so much memory and gives it back, in children that have ended when
    this returns.  Small pages, as guests and store get.  Returns the seconds it took;
    some 0.2 a GiB and two CPUs."""
    start = time.monotonic()
    size = min(mib, int(available_mib() * FREE_PART)) // CHILDREN << 20
    children = [subprocess.Popen([sys.executable, "-c", TOUCH, str(size)], stdin=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
                for _ in range(CHILDREN if size > 0 else 0)]
    try:
        for child in children:
            child.wait(120)
    finally:
        for child in children:
            child.kill()  # nothing where it has ended
            child.wait(10)
    return time.monotonic() - start
