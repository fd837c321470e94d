# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""First process of a host.  Runs in network, mount and UTS namespaces of its
own, puts the host's directories in place, and starts what standard input asks
for: one JSON object a line, {"argv": [...], "log": PATH}, answered by
{"pid": N}.  It reaps whatever ends below it: without that libvirtd would wait
2 s for each QEMU that it stops, since a zombie still has its pid.  When
standard input ends, all its children end, by pid.

    hostinit.py DIRECTORY HOSTNAME FROM:TO..."""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, CLONE_NEWUTS = 0x20000, 0x4000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18


def enter_namespaces(hostname):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWUTS) or \
            libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "namespaces of a host")
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    socket.sethostname(hostname)


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as f:
        return [int(pid) for pid in f.read().split()]


def reap():
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def end_children():
    """SIGTERM; after two seconds SIGKILL, also to what they leave behind."""
    for attempt in range(100):
        reap()
        left = children()
        if not left:
            return
        for pid in left:
            if attempt == 0:
                os.kill(pid, signal.SIGTERM)
            elif attempt >= 20:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def serve():
    wakeup, signalled = os.pipe()
    for fd in (wakeup, signalled):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(signalled)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pending = b""
    while True:
        ready = select.select([0, wakeup], [], [])[0]
        if wakeup in ready:
            os.read(wakeup, 4096)
            reap()
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            with open(request["log"], "ab") as log:
                # Not waited for: reap() does.
                child = subprocess.Popen(request["argv"], stdin=subprocess.DEVNULL, stdout=log,
                                         stderr=log, start_new_session=True)
            child.returncode = 0
            print(json.dumps({"pid": child.pid}), flush=True)


def main():
    directory, hostname, *binds = sys.argv[1:]
    for sig in (signal.SIGINT, signal.SIGTERM):  # the end is the end of our input
        signal.signal(sig, signal.SIG_IGN)
    enter_namespaces(hostname)
    for bind in binds:
        source, target = bind.split(":")
        subprocess.run(["mount", "--bind", os.path.join(directory, source), target], check=True)
    os.makedirs("/run/lock", exist_ok=True)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    try:
        serve()
    finally:
        end_children()


if __name__ == "__main__":
    main()
