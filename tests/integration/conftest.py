# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""What every integration test starts from: a Bed with two hosts."""

import os
import shutil
import sys
import tempfile

import pytest

from ganglib import gang, net, process, vm


class Bed:
    """Two hosts and what runs on them; all of it ends with the test."""

    def __init__(self, rate_mbit):
        process.become_subreaper()
        # Not pytest's directory: socket paths have to stay below 108 bytes.
        self.rundir = tempfile.mkdtemp(prefix="gang-")
        self.hosts = net.Hosts(rate_mbit)
        self.closers = []

    def guests(self, count=2, workload="idle", memory_mb=256, beats=1, first=0, **spec):
        """Running guests on A, restored from saved states, with the numbers from first
        to count - 1.  net: a function that gives guest i's network address."""
        qemu, net = spec.pop("qemu", None), spec.pop("net", lambda i: "")
        found = []
        memory = spec.pop("memory", None)  # a list: of each its RAM's arguments
        for i in range(first, count):
            guest = vm.restore(vm.Spec(i, memory_mb, workload, net=net(i), **spec), self.rundir,
                               self.hosts.a, qemu, memory=memory and memory[i])
            self.closers.append(guest.close)
            found.append(guest)
        for guest in found:
            guest.wait_beats(beats)
        return found

    def gangd(self, host, *options, label=""):
        daemon = gang.Gangd(self.rundir, host, *options, label=label)
        self.closers.append(daemon.close)
        return daemon

    def gangds(self, *options):
        """A coordinator on each host; options are for both."""
        return (self.gangd(self.hosts.a, *options), self.gangd(self.hosts.b, *options))

    def tamper(self, member, nth, what):
        """Puts a forwarder before this member that damages what goes through it."""
        member.via = member.port + 100
        env = dict(os.environ, PYTHONPATH=os.path.join(process.TOP, "tests/integration"),
                   PYTHONDONTWRITEBYTECODE="1")
        forwarder = process.Process(
            [sys.executable, "-m", "ganglib.tamper", self.hosts.b.address, str(member.via),
             str(member.port), str(nth), str(what)], os.path.join(self.rundir, "tamper.log"),
            netns=self.hosts.b.netns, env=env)
        self.closers.append(forwarder.end)
        process.wait_for(lambda: "listening" in forwarder.output(), 10, "the forwarder")
        return forwarder

    def prepare(self, sources, gangds=None, **kw):
        members = gang.prepare(sources, self.hosts, gangds, **kw)
        self.closers += [member.destination.close for member in members]
        return members

    def migrate(self, members, gangds=None, **kw):
        return gang.migrate(members, self.hosts, gangds, **kw)

    def close(self):
        failures = []
        for closer in reversed(self.closers):
            try:
                closer()
            except Exception as e:  # the others still have to end
                failures.append(e)
        self.hosts.close()
        keep = os.environ.get("GANG_KEEP_LOGS")
        if keep:
            print(f"logs: {self.rundir}")
        else:
            shutil.rmtree(self.rundir, ignore_errors=True)
        if failures:
            raise failures[0]


@pytest.fixture
def bed(request):
    """@pytest.mark.link(MBIT) sets the link's rate; unshaped without it."""
    mark = request.node.get_closest_marker("link")
    it = Bed(mark.args[0] if mark else 0)
    yield it
    it.close()


@pytest.fixture
def stock():
    return process.product("qemu-system-x86_64-stock")
