# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""CPU seconds and shared memory of processes, from /proc."""

import os

TICK = os.sysconf("SC_CLK_TCK")


def _stat_seconds(path):
    """User and system time of a stat file of /proc."""
    with open(path) as f:
        # The name before the last ')' may hold anything.
        field = f.read().rsplit(")", 1)[1].split()
    return (int(field[11]) + int(field[12])) / TICK


def cpu_seconds(pids):
    """Of whole processes: threads that have ended count."""
    return sum(_stat_seconds(f"/proc/{pid}/stat") for pid in pids)


def vcpu_seconds(vm):
    """Of the threads that run the guest itself."""
    return sum(_stat_seconds(f"/proc/{vm.process.pid}/task/{cpu['thread-id']}/stat")
               for cpu in vm.cmd("query-cpus-fast"))


def shared_memory(pids, prefix="gang-"):
    """name -> bytes in use of the memfds of that prefix that these processes
    hold or map; each is counted once."""
    seen, total = set(), {}
    for pid in pids:
        for folder in ("fd", "map_files"):
            try:
                entries = os.listdir(f"/proc/{pid}/{folder}")
            except OSError:
                continue  # it has ended
            for entry in entries:
                path = f"/proc/{pid}/{folder}/{entry}"
                try:
                    name = os.readlink(path)
                    if not name.startswith("/memfd:" + prefix):
                        continue
                    status = os.stat(path)
                except OSError:
                    continue  # closed meanwhile
                if status.st_ino not in seen:
                    seen.add(status.st_ino)
                    name = name.removeprefix("/memfd:").split()[0]
                    total[name] = total.get(name, 0) + status.st_blocks * 512
    return total


class Peak:
    """The most shared memory seen; look() is called again and again."""

    def __init__(self, pids):
        self.pids, self.most = pids, {}

    def look(self):
        for name, size in shared_memory(self.pids).items():
            self.most[name] = max(size, self.most.get(name, 0))
