# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""What a guest's RAM may be made of: the arguments that QEMU takes for it, and
how much of it this machine gave."""

import glob
import os

# All of one RAMBlock "ram", so that a state saved with one kind fits the others.
KINDS = {
    "memfd": "memory-backend-memfd,share=on",
    "memfd-private": "memory-backend-memfd,share=off",
    "anonymous": "memory-backend-ram,share=off",
    "anonymous-shared": "memory-backend-ram,share=on",
    "file": "memory-backend-file,share=on,mem-path={rundir}",
    "file-private": "memory-backend-file,share=off,mem-path={rundir}",
    "tmpfs": "memory-backend-file,share=on,mem-path=/dev/shm",
    "prealloc": "memory-backend-memfd,share=on,prealloc=on",
    "hugetlb": "memory-backend-memfd,share=on,hugetlb=on,hugetlbsize=2M",
    "hugetlb-private": "memory-backend-memfd,share=off,hugetlb=on,hugetlbsize=2M",
}
HUGE_PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/"


def backend(kind, size_mb, rundir, name="ram"):
    return ["-object", f"{KINDS[kind].format(rundir=rundir)},id={name},size={size_mb}M"]


def single(kind, size_mb, rundir):
    return ["-machine", "memory-backend=ram", *backend(kind, size_mb, rundir)]


def nodes(kinds_and_sizes, rundir):
    """NUMA nodes, each with a RAMBlock of its own."""
    argv = []
    for i, (kind, size_mb) in enumerate(kinds_and_sizes):
        argv += backend(kind, size_mb, rundir, f"m{i}")
        argv += ["-numa", f"node,nodeid={i},memdev=m{i}"]
    return argv


def file_of(vm, size_mb):
    """/proc's link to the only file of guest memory of that size."""
    found = {}
    for path in glob.glob(f"/proc/{vm.process.pid}/fd/*"):
        if "memfd:" in os.readlink(path) and os.stat(path).st_size == size_mb << 20:
            found[os.stat(path).st_ino] = path
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} files of {size_mb} MiB")
    return found.popitem()[1]


def allocated(vm, size_mb):
    """Bytes that this machine gave for it."""
    return os.stat(file_of(vm, size_mb)).st_blocks * 512


class HugePages:
    """Reserves huge pages, and gives them back; raises OSError if it cannot."""

    def __init__(self, count):
        self.count = 0
        self._add(count)
        with open(HUGE_PAGES + "free_hugepages") as f:
            free = int(f.read())
        self.count = count
        if free < count:
            self.close()
            raise OSError(f"only {free} of {count} huge pages could be reserved")

    def _add(self, count):
        with open(HUGE_PAGES + "nr_hugepages", "r+") as f:
            now = int(f.read())
            f.seek(0)
            f.write(str(max(0, now + count)))

    def close(self):
        self._add(-self.count)
        self.count = 0
