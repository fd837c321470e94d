# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Migrations of a gang, by stock QEMU or by ours, and their figures."""

import os
import time
from dataclasses import dataclass, field

from . import oracle
from .process import Process, product, wait_for
from .vm import VM

CHANNELS = 2
PORT = 4000  # the namespaces are ours, so no port is taken
DONE = ("completed", "failed", "cancelled")


class Gangd:
    """A coordinator on one host."""

    def __init__(self, rundir, host, *options, label=""):
        self.socket = os.path.join(rundir, f"gangd{label}-{host.letter}.sock")
        self.process = Process([product("gangd"), "--socket", self.socket, *options],
                               self.socket + ".log", netns=host.netns)

        def up():
            if not self.process.alive():
                raise RuntimeError(f"gangd ended: {self.process.output()}")
            return os.path.exists(self.socket)
        wait_for(up, 10, "gangd's socket")

    def close(self):
        return self.process.end()


@dataclass
class Member:
    """A guest on its way: source, destination, and what became of it."""
    source: VM
    destination: VM
    port: int
    via: int = 0  # port of a forwarder before the destination
    status: str = "none"
    downtime_ms: float = 0.0
    total_ms: float = 0.0
    ram_identical: bool = False
    info: dict = field(default_factory=dict)  # query-gang of the source, at the end


@dataclass
class Result:
    mode: str
    wire_bytes: int
    total_s: float
    members: list


def tune(vm, compression, channels):
    vm.qmp.capabilities(multifd=True, return_path=True)
    vm.qmp.parameters(multifd_compression=compression, multifd_channels=channels,
                      max_bandwidth=1 << 40)


def destination_of(source, host, qemu=None, label="", hold=True, memory=None):
    """A QEMU that waits for this guest.  hold: and does not run it, for the oracle."""
    return VM(source.spec, source.rundir, host, qemu, incoming=True, label=label, hold=hold,
              extra=source.extra, memory=memory or source.memory, append=source.append)


def prepare(sources, hosts, gangds=None, gang_id="gang", qemu=None, channels=CHANNELS, label="",
            compression="zstd", dedup="delta", back=False, memory=None, before=None):
    """Destinations for the sources, listening.  gangds: (A's, B's), or None
    for stock multifd + zstd.  back: from B to A.  memory: the destinations', if not as
    the sources'; before: called with source and destination before that listens."""
    to = hosts.a if back else hosts.b
    members = []
    try:
        for i, source in enumerate(sources):
            destination = destination_of(source, to, qemu, label, memory=memory and memory[i])
            member = Member(source, destination, PORT + source.spec.index)
            members.append(member)
            uri = f"tcp:{to.address}:{member.port}"
            for vm in (source, destination):
                tune(vm, "gang" if gangds else "zstd", channels)
                if gangds:
                    vm.qmp.parameters(gang_compression=compression, gang_dedup=dedup)
            if before:
                before(source, destination)
            if gangds:
                destination.cmd("gang-migrate-incoming", uri=uri, gang_id=gang_id,
                                gang_socket=gangds[0 if back else 1].socket, exit_on_error=False)
            else:
                destination.cmd("migrate-incoming", uri=uri, exit_on_error=False)
    except BaseException:
        for member in members:
            member.destination.close()
        raise
    return members


def start(members, hosts, gangds=None, gang_id="gang", back=False, count=None):
    """Starts all migrations at once."""
    to = hosts.a if back else hosts.b
    for member in members:
        uri = f"tcp:{to.address}:{member.via or member.port}"
        if gangds:
            member.source.cmd("gang-migrate", uri=uri, gang_id=gang_id,
                              gang_socket=gangds[1 if back else 0].socket,
                              gang_members=count or len(members))
        else:
            member.source.cmd("migrate", uri=uri)


def wait(members, timeout=300, progress=None, poll=0.05):
    """Waits until every migration has ended, however it did.  progress is
    called with (member, query-migrate) at each look."""
    end = time.monotonic() + timeout
    left = list(members)
    while left:
        if time.monotonic() > end:
            raise TimeoutError("migrations did not end: " + "; ".join(
                f"{m.source.name}: {m.source.cmd('query-migrate')}" for m in left))
        for member in list(left):
            try:
                info = member.source.cmd("query-migrate")
            except (OSError, ValueError):
                member.status, info = "lost", {}
            else:
                member.status = info.get("status", "none")
            if progress:
                progress(member, info)
            if member.status in DONE or member.status == "lost":
                member.downtime_ms = float(info.get("downtime", 0))
                member.total_ms = float(info.get("total-time", 0))
                member.info = info
                left.remove(member)
        if left:
            time.sleep(poll)


def wait_sending(members, megabytes, timeout=60):
    """Waits until each of the migrations has sent so much."""
    def sent(member):
        info = member.source.cmd("query-migrate")
        if info.get("status") in DONE:
            raise RuntimeError(f"{member.source.name} has ended already: {info}")
        return info.get("ram", {}).get("transferred", 0) > megabytes * 1e6
    for member in members:
        wait_for(lambda: sent(member), timeout, f"{member.source.name} to send", poll=0.01)


def check(members):
    """The oracle on every member that completed."""
    for member in members:
        if member.status != "completed":
            raise AssertionError(f"{member.source.name} {member.status}: {member.info}"
                                 f" {member.destination.process.output()[-1500:]}")
        member.destination.wait_migration(30)
        oracle.check_identical(member.source, member.destination)
        member.ram_identical = True


def migrate(members, hosts, gangds=None, gang_id="gang", progress=None, timeout=120, back=False):
    """One whole run on prepared members: start, wait, compare.  Destinations
    stay paused."""
    before, t0 = hosts.wire_bytes(), time.monotonic()
    start(members, hosts, gangds, gang_id, back)
    wait(members, timeout, progress)
    result = Result("gang" if gangds else "stock-multifd-zstd", 0,
                    time.monotonic() - t0, members)
    result.wire_bytes = hosts.wire_bytes() - before
    check(members)
    return result


def run_at_destination(members, beats=2):
    """The guests go on at B: heartbeats come, and no guest found damage."""
    for member in members:
        member.source.check_guest()
        member.source.close()
        member.destination.cmd("cont")
    for member in members:
        member.destination.wait_beats(beats)
