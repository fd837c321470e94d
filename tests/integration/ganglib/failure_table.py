# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""What becomes of each VM of a gang when something fails: the table itself, which
docs/operations.md shows, and how each of its cells comes about.

Two VMs are a gang.  It happens to the first, the victim (its QEMU at the source, its QEMU at
the destination), or to what both have: a coordinator, gangctl, the link."""

import json
import os
import signal
import subprocess
import time

from . import gang, oracle
from .process import Process, product, wait_for
from .qmp import QMP, QMPError

PHASES = ("before scan", "scan", "bulk", "deferred pages outstanding", "switchover turn",
          "after the first switchover")

ARRIVES, STAYS, GONE = "arrives", "stays", "gone"
BOTH = (ARRIVES, ARRIVES)

# (component, action) -> what becomes of (the victim, the other VM), in each phase.  In the last
# one the other has arrived before.
TABLE = {
    ("source QEMU", "killed"): [(GONE, ARRIVES)] * 6,
    ("source QEMU", "stopped for 10 s"): [BOTH] * 6,
    ("destination QEMU", "killed"): [(STAYS, ARRIVES)] * 6,
    ("destination QEMU", "stopped for 10 s"): [BOTH] * 6,
    ("source gangd", "killed"): [BOTH] * 6,
    ("source gangd", "stopped for 10 s"): [BOTH] * 6,
    ("destination gangd", "killed"): [BOTH] * 6,
    ("destination gangd", "stopped for 10 s"): [BOTH] * 6,
    ("gangctl", "killed"): [BOTH] * 6,
    ("gangctl", "stopped for 10 s"): [BOTH] * 6,
    ("link", "cut for good"): [(STAYS, STAYS)] * 5 + [(STAYS, ARRIVES)],
    ("link", "cut and restored after 10 s"): [BOTH] * 6,
}

CELLS = [(component, action, phase, outcome) for (component, action), row in TABLE.items()
         for phase, outcome in zip(PHASES, row)]


def words(outcome):
    """As the document has it."""
    if outcome[0] == outcome[1]:
        return "both " + outcome[0].removesuffix("s")
    return f"{outcome[0]}; the other {outcome[1]}"


def markdown():
    """The whole table."""
    lines = ["| what | " + " | ".join(PHASES) + " |", "|---" * (len(PHASES) + 1) + "|"]
    for (component, action), row in TABLE.items():
        lines.append(f"| {component} {action} | " + " | ".join(map(words, row)) + " |")
    return "\n".join(lines) + "\n"


SLOW = 1 << 20  # bytes a second, while a phase is to last
MEASURED = 8 << 20
FAST = 1 << 40
STOP_S = 10


def phase_of(vm):
    return vm.cmd("query-gang").get("phase")


class Cell:
    """One cell, on a bed with a shaped link."""

    def __init__(self, bed, component, action, phase):
        self.bed, self.component, self.action, self.phase = bed, component, action, phase
        self.hosts = bed.hosts
        # A gang whose only member ends is forgotten: the next one waits for the rest.
        alone = phase == "before scan" and component.endswith("QEMU") and action == "killed"
        self.options = ("--barrier-timeout", "5" if alone else "120")
        self.gangds = list(bed.gangds(*self.options))
        self.gangctl = None
        sources = bed.guests(2, "dirty")
        if component == "gangctl":
            self.members = []
            for source in sources:
                destination = gang.destination_of(source, bed.hosts.b)
                bed.closers.append(destination.close)
                gang.tune(source, "gang", gang.CHANNELS)
                gang.tune(destination, "gang", gang.CHANNELS)
                self.members.append(gang.Member(source, destination,
                                                gang.PORT + source.spec.index))
        else:
            self.members = bed.prepare(sources, self.gangds)
        self.victim, self.other = self.members
        self.arrived = []
        self.oob = []

    def run(self, outcome):
        getattr(self, "reach_" + self.phase.split()[0])()
        self.act()
        self.go_on()
        self.end(outcome)

    # How a phase is reached, and held

    def start(self, *members):
        gang.start(list(members), self.hosts, self.gangds, count=2)

    def pace(self, **rates):
        for name, rate in rates.items():
            getattr(self, name).source.qmp.parameters(max_bandwidth=rate)

    def start_gangctl(self, rate):
        plan = os.path.join(self.bed.rundir, "plan.json")
        with open(plan, "w") as f:
            json.dump({"gang": "gang", "max_bandwidth": rate,
                       "source_coordinator": self.gangds[0].socket,
                       "destination_coordinator": self.gangds[1].socket,
                       "vms": [{"name": m.source.name, "source": m.source.ctl_path,
                                "destination": m.destination.ctl_path,
                                "uri": f"tcp:{self.hosts.b.address}:{m.port}"}
                               for m in self.members]}, f)
        self.gangctl = Process([product("gangctl"), "migrate", "--json", "--overcommit",
                                "--plan", plan],
                               os.path.join(self.bed.rundir, "gangctl.log"),
                               netns=self.hosts.a.netns)
        self.bed.closers.append(self.gangctl.end)
        for member in self.members:  # "completed" is of how it came here
            wait_for(lambda: member.source.status() in ("setup", "active"), 30, "the start")

    def begin(self, rate):
        """Both are on their way, each at this rate."""
        if self.component == "gangctl":
            self.start_gangctl(rate)
        else:
            self.pace(victim=rate, other=rate)
            self.start(*self.members)

    def connecting(self):
        """By gangctl, which starts both: neither has reached the other host yet."""
        self.hosts.unplug(True)
        self.start_gangctl(FAST)

    def wait_phase(self, member, phase):
        wait_for(lambda: phase_of(member.source) == phase, 60,
                 lambda: f"{member.source.name} to be in {phase}, is in {phase_of(member.source)}",
                 poll=0.01)

    def reach_before(self):
        """The victim waits for the other."""
        if self.component == "gangctl":
            self.connecting()
        else:
            self.start(self.victim)
            self.wait_phase(self.victim, "joining")

    def reach_scan(self):
        """The victim has scanned, and the other has not."""
        if self.component == "gangctl":
            self.connecting()
            self.victim.source.process.kill(signal.SIGSTOP)
            self.hosts.unplug(False)
        else:
            self.start(self.other)
        self.wait_phase(self.other, "joining")
        self.other.source.process.kill(signal.SIGSTOP)
        if self.component == "gangctl":
            self.victim.source.process.kill(signal.SIGCONT)
        else:
            self.start(self.victim)
        self.wait_phase(self.victim, "barrier")

    def reach_bulk(self):
        self.begin(SLOW)
        gang.wait_sending(self.members, 0.2)

    def reach_deferred(self):
        """The other's destination goes on by jerks: what is in flight there stays so, but
        never for as long as a stalled member's."""
        self.begin(MEASURED)
        gang.wait_sending(self.members, 0.1)
        for _ in range(400):
            self.other.destination.process.kill(signal.SIGSTOP)
            time.sleep(0.2)
            if self.victim.source.cmd("query-gang")["deferred-pages"]:
                return
            self.other.destination.process.kill(signal.SIGCONT)
            time.sleep(0.02)
            assert self.victim.source.status() == "active", "no page was deferred"
        raise TimeoutError("no page was deferred")

    def reach_switchover(self):
        """The victim is about to be moved; the other is sending."""
        self.victim.source.qmp.capabilities(pause_before_switchover=True)
        self.begin(SLOW)
        gang.wait_sending(self.members, 0.2)
        self.pace(victim=FAST)
        wait_for(lambda: self.victim.source.status() == "pre-switchover", 120,
                 lambda: f"the victim's turn: {self.victim.source.cmd('query-migrate')}")

    def reach_after(self):
        """The other has arrived."""
        self.begin(SLOW)
        gang.wait_sending(self.members, 0.2)
        self.pace(other=FAST)
        gang.wait([self.other], 120)
        self.hand_over(self.other)

    # What happens then

    def act(self):
        if self.component == "link":
            if self.action == "cut for good" and self.phase == "switchover turn":
                # While there is a main loop that answers.
                self.oob = [QMP(m.source.ctl_path, oob=True) for m in self.members]
                self.bed.closers += [qmp.close for qmp in self.oob]
            self.hosts.cut(True)
            if self.action != "cut for good":
                time.sleep(STOP_S)
                self.hosts.cut(False)
            return
        process = {"source QEMU": self.victim.source, "destination QEMU": self.victim.destination,
                   "source gangd": self.gangds[0], "destination gangd": self.gangds[1],
                   "gangctl": self}[self.component]
        process = self.gangctl if process is self else process.process
        if self.action == "killed":
            process.kill()
            process.child.wait(10)
            if self.component.endswith("gangd"):
                self.restart_gangd(self.component.startswith("destination"))
        else:
            process.kill(signal.SIGSTOP)
            time.sleep(STOP_S)
            process.kill(signal.SIGCONT)

    def restart_gangd(self, side):
        """As the service manager does."""
        os.unlink(self.gangds[side].socket)  # so that the new one's can be waited for
        self.gangds[side] = self.bed.gangd((self.hosts.a, self.hosts.b)[side], *self.options)

    def go_on(self):
        """Nothing holds the phase any more."""
        self.hosts.unplug(False)
        if self.phase == "before scan" and self.component != "gangctl":
            try:
                self.start(self.other)
            except QMPError:
                if self.component != "link":
                    raise
        for member in self.members:
            if member in self.arrived:
                continue
            for vm in (member.source, member.destination):
                vm.process.kill(signal.SIGCONT)
            if member.source.process.alive():
                member.source.qmp.parameters(max_bandwidth=FAST)
        if self.phase == "switchover turn" and self.victim.source.process.alive():
            try:
                self.victim.source.cmd("migrate-continue", state="pre-switchover")
            except QMPError:  # it has failed already
                if self.victim.source.status() == "pre-switchover":
                    raise

    # What became of it

    def end(self, outcome):
        left = [m for m in self.members if m not in self.arrived]
        if self.action == "cut for good":
            self.give_up(left)
        gang.wait([m for m in left if m.source.process.alive()], 120)
        for member, want in zip(self.members, outcome):
            if member in self.arrived:
                assert want == ARRIVES
            elif want == ARRIVES:
                self.hand_over(member)
            elif want == STAYS:
                self.assert_stays(member)
            else:
                assert not member.source.process.alive()
        for member, want in zip(self.members, outcome):
            self.runs_once(member, want)
        if self.component == "gangctl" and self.action != "killed":
            assert self.gangctl.child.wait(60) == 0, self.gangctl.output()
        if self.component.endswith("gangd"):
            self.forgotten()

    def give_up(self, members):
        """The administrator's word.  Channels that wait for the link do not hear
        migrate_cancel; and a VM that is stopped for its switchover hears anything out
        of band only: its main loop waits, too."""
        time.sleep(1)
        for qmp in self.oob:
            qmp.yank()
        for member in members:  # who has failed does not mind
            member.source.cmd("migrate_cancel")
            try:
                member.source.cmd("yank", instances=[{"type": "migration"}])
            except QMPError:  # it has no connections any more
                pass

    def hand_over(self, member):
        """Compares its memory (invariant 1), then runs it at the destination."""
        if member.status != "completed":
            raise AssertionError(f"{member.source.name} {member.status}: {member.info}"
                                 f" {member.destination.process.output()[-1500:]}")
        member.destination.wait_migration(60)
        wait_for(lambda: member.source.run_state() == "postmigrate", 60, "the source to be over")
        oracle.check_identical(member.source, member.destination)
        member.source.check_guest()
        member.destination.cmd("cont")
        self.arrived.append(member)

    def assert_stays(self, member):
        assert member.status in ("failed", "cancelled"), f"{member.source.name}: {member.status}"
        # "failed" is said before the guest goes on.
        wait_for(lambda: member.source.run_state() == "running", 60, "it to run at its source")

    def runs_once(self, member, want):
        """At one place, where it finds its memory as it left it."""
        here, there = member.source, member.destination
        if want == ARRIVES:
            assert here.run_state() == "postmigrate"
            there.wait_beats(2)
            return
        if there.process.alive():
            assert there.run_state() != "running"
        if want == STAYS:
            here.wait_beats(2)

    def forgotten(self):
        """The coordinator that was away has seen the gang's end."""
        def gangs(daemon):
            return json.loads(status(daemon))["gangs"]
        for daemon in self.gangds:
            wait_for(lambda: not gangs(daemon), 60, lambda: f"{gangs(daemon)} to be forgotten")


def status(daemon):
    """What gangctl shows, as JSON."""
    return subprocess.run([product("gangctl"), "status", "--json", "--socket", daemon.socket],
                          check=True, capture_output=True, text=True, timeout=30).stdout
