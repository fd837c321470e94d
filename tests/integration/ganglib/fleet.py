# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Guests with real stakes: each has a database that a client outside writes to
all the time.  They move between the hosts as one gang, things go wrong on
the way, and what a hop left behind is looked for.

A destination runs its guest when the source's migration has completed, and not
before, as management layers do."""

import os
import random
import sys
import time
from dataclasses import dataclass

from gangbench import account

from . import faults, gang, lan, oracle
from .process import TOP, Process, wait_for

SLOW = 1 << 20  # bytes a second, while a fault is waited for
MORE_WRITES = 20  # acknowledged after each hop, by each guest
SLACK_KB = 256  # of a heap that is cut up in another way each time


class Client:
    """The client outside of one guest, and its record."""

    def __init__(self, index, network, rundir, rate):
        self.address, self.seed = lan.guest_address(index), index + 1
        self.network, self.record = network, os.path.join(rundir, f"client{index}")
        self.env = dict(os.environ, PYTHONPATH=os.path.join(TOP, "tests/integration"),
                        PYTHONDONTWRITEBYTECODE="1")
        self.writer = self._start("write", rate, self.record)

    def _start(self, what, *arguments):
        argv = [sys.executable, "-m", "ganglib.client", what, self.address, self.seed, *arguments]
        return Process([str(a) for a in argv], f"{self.record}.{what}", netns=self.network.netns,
                       env=self.env)

    def run(self, what, *arguments):
        """Another client, to its end; what it said."""
        process = self._start(what, *arguments)
        try:
            if process.child.wait(240):
                raise AssertionError(f"{self.address}: {process.output()}")
        finally:
            process.end()
        return process.output()

    def writes(self):
        """Acknowledged so far."""
        if not self.writer.alive():
            raise AssertionError(f"the client of {self.address} ended: {self.writer.output()}")
        try:
            with open(self.record, "rb") as f:
                f.seek(max(0, os.path.getsize(self.record) - 64))
                lines = f.read().split(b"\n")
        except FileNotFoundError:
            return 0
        return int(lines[-2]) + 1 if len(lines) > 1 else 0

    def wait_writes(self, more=MORE_WRITES):
        want = self.writes() + more
        wait_for(lambda: self.writes() >= want, 120, lambda:
                 f"write {want} of {self.address}, has {self.writes()}")

    def verify(self):
        """Ends the client; everything it has a record of has to be there, in
        memory and in the append-only file."""
        if not self.writer.alive() or self.writer.end(240):
            raise AssertionError(f"the client of {self.address}: {self.writer.output()}")
        said = self.run("verify", self.record)
        print(self.address, self.writer.output().strip(), said.strip(), sep=", ")

    def close(self):
        self.writer.end()


class Fleet:
    """So many guests, all at one host between two hops."""

    def __init__(self, bed, count, seed, memory_mb=192, rate=25):
        self.bed, self.hosts = bed, bed.hosts
        self.chance = random.Random(seed)
        self.network = lan.Lan(bed.hosts, count)
        bed.closers.append(self.network.close)
        self.gangds = [self._gangd(host) for host in (self.hosts.a, self.hosts.b)]
        self.vms = bed.guests(count, "store", memory_mb,
                              net=lambda i: f"{lan.guest_address(i)}/{lan.BITS}")
        self.at_b, self.moves, self.log = False, 0, []
        self.held = {}  # pid of a gangd -> what it had after each hop
        self.clients = [Client(i, self.network, bed.rundir, rate) for i in range(count)]
        bed.closers += [client.close for client in self.clients]
        for client in self.clients:
            client.wait_writes()

    # One hop

    def hop(self, fault):
        """All guests to the other host.  fault(self, members) is called when each
        has sent something, or with the first that has stopped for its
        switchover; guests that it left where they were follow alone."""
        began = time.monotonic()
        references = self._move(self.vms, fault)
        left = [vm for vm in self.vms if (vm.host is self.hosts.b) == self.at_b]
        stayed = faults.STAYING.get(fault, lambda of: [0])(len(self.vms))
        assert len(left) in stayed, f"{len(left)} stayed"
        assert left or references, "the members shared nothing"
        if left:
            for client in self.clients:  # they go on, some here and some there
                client.wait_writes()
            self._restart_lost_gangds()
            self._move(left, None)
        self.at_b = not self.at_b
        for vm in self.vms:
            assert (vm.host is self.hosts.b) == self.at_b, f"{vm.name} did not move"
        for client in self.clients:
            client.wait_writes()
        for vm in self.vms:
            vm.check_guest()
        self._restart_lost_gangds()
        self.log.append(f"hop {len(self.log) + 1}: {fault.__name__ if fault else 'nothing'},"
                        f" {len(left)} stayed, {references} references,"
                        f" {time.monotonic() - began:.1f} s; gangds have {self.remains()}")
        print(self.log[-1], flush=True)

    def _move(self, vms, fault):
        """One attempt.  Whatever comes of it, each guest runs at one place."""
        self.moves += 1
        name = dict(gang_id=f"gang-{self.moves}", back=self.at_b)
        descriptors = {vm.name: count_descriptors(vm.process.pid) for vm in vms}
        members = self.bed.prepare(list(vms), self.gangds, label=f"-{self.moves}", **name)
        for member in members:
            member.source.qmp.capabilities(pause_before_switchover=fault in faults.PAUSING)
            if fault in faults.EARLY:
                member.source.qmp.parameters(max_bandwidth=SLOW)
        gang.start(members, self.hosts, self.gangds, **name)
        if fault in faults.EARLY:
            gang.wait_sending(members, 0.2)
            fault(self, members)
            for member in members:
                member.source.qmp.parameters(max_bandwidth=1 << 40)
        seen = set()

        def look(member, info):
            status = info.get("status")
            if (member.source.name, status) in seen:
                return
            seen.add((member.source.name, status))
            if status == "completed":
                self._hand_over(member)
            elif status == "pre-switchover":
                first = sum(s == status for _, s in seen) == 1
                if fault in faults.LATE and first:
                    fault(self, [member])
                else:
                    faults.go_on(member)
        gang.wait(members, 180, look)
        references = 0
        for member in members:
            if member.status == "completed":
                references += member.source.cmd("query-gang")["referenced-pages"]
                member.source.close()
                self.vms[self.vms.index(member.source)] = member.destination
            else:
                self._assert_stays(member, descriptors[member.source.name])
        return references

    def _hand_over(self, member):
        member.destination.wait_migration(60)
        # "completed" is said before the source's state is the last one.
        wait_for(lambda: member.source.run_state() == "postmigrate", 60,
                 lambda: f"{member.source.name} {member.source.run_state()} to be over")
        oracle.check_identical(member.source, member.destination)
        member.source.check_guest()
        member.destination.cmd("cont")
        assert member.destination.run_state() == "running"

    def _assert_stays(self, member, descriptors):
        """Invariant 6, and it runs at no other place, and has as many descriptors
        as before."""
        assert member.status in ("failed", "cancelled"), f"{member.source.name}: {member.status}"
        # "failed" is said before the guest goes on.
        wait_for(lambda: member.source.run_state() == "running", 60,
                 lambda: f"{member.source.name} {member.source.run_state()} to run at its source")
        if member.destination.process.alive():
            assert member.destination.run_state() != "running"
        member.destination.close()
        pid = member.source.process.pid
        wait_for(lambda: count_descriptors(pid) <= descriptors, 60, lambda:
                 f"{member.source.name} to close {count_descriptors(pid) - descriptors} of its"
                 f" {count_descriptors(pid)} descriptors")

    def _restart_lost_gangds(self):
        for i, host in enumerate((self.hosts.a, self.hosts.b)):
            if not self.gangds[i].process.alive():
                os.unlink(self.gangds[i].socket)  # so that the new one's can be waited for
                self.gangds[i] = self._gangd(host)

    def _gangd(self, host):
        # What is left of a gang that failed is kept for a moment, not for minutes.
        return self.bed.gangd(host, "--store-keep", "2")

    # What is left behind

    def remains(self):
        """What both gangds hold, once the gangs are over; nobody keeps the memory
        of one."""
        pids = [vm.process.pid for vm in self.vms] + [g.process.pid for g in self.gangds]
        wait_for(lambda: not account.shared_memory(pids), 60,
                 lambda: f"the memory of gangs to be given back: {account.shared_memory(pids)}")
        for pid in pids[len(self.vms):]:
            self.held.setdefault(pid, []).append(Held.by(pid))
        return ", ".join(str(self.held[pid][-1]) for pid in pids[len(self.vms):])

    def check_leaks(self, settled=2):
        """No gangd holds more than after its first few gangs."""
        for series in self.held.values():
            for held in series[settled:]:
                before = series[settled - 1]
                assert held.fds <= before.fds, [str(h) for h in series]
                assert held.anonymous_kb <= before.anonymous_kb + SLACK_KB, [str(h) for h in series]

    def verify(self):
        for client in self.clients:
            client.verify()
        for vm in self.vms:
            wait_for(lambda: any("AOF valid" in line for line in vm.serial_lines()), 60,
                     f"the check of {vm.name}'s append-only file")
            vm.check_guest()


def count_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


@dataclass
class Held:
    """What a process has that can leak."""
    fds: int
    resident_kb: int
    anonymous_kb: int  # of it, neither files nor shared memory

    @staticmethod
    def by(pid):
        with open(f"/proc/{pid}/status") as f:
            kb = {key: int(text.split()[0]) for key, text in
                  (line.split(":", 1) for line in f if line.startswith(("VmRSS", "RssAnon")))}
        return Held(count_descriptors(pid), kb["VmRSS"], kb["RssAnon"])

    def __str__(self):
        return f"{self.fds} descriptors, {self.resident_kb} kB ({self.anonymous_kb} anonymous)"
