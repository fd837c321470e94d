# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Both hosts and the domains on them.  Booting guests takes longer than moving
them, so one rig serves all tests: each takes its domains where the last left
them, so that some move from A to B and some back."""

import os
import shutil
import signal
import tempfile

from ganglib import net, process, tls
from ganglib.process import wait_for
from ganglib.vm import Spec

from .domain import RAM, Domain
from .host import VIRSH, Host

GANGD_OPTIONS = ("--barrier-timeout", "15")
NO_GANG = {"multifd-compression": "none", "gang-id": "", "gang-members": 1,
           "gang-policy": "independent", "gang-dedup": "delta", "gang-compression": "auto"}


class Rig:
    def __init__(self, rate_mbit=0):
        process.become_subreaper()
        self.rundir = tempfile.mkdtemp(prefix="gang-virt-")
        self.net = net.Hosts(rate_mbit)
        self.hosts, self.pool = [], {}
        tls.authority(self.rundir)
        try:
            names = {f"host-{h.letter}": h.address for h in (self.net.a, self.net.b)}
            for each in (self.net.a, self.net.b):
                self.hosts.append(Host(each, self.rundir, names, GANGD_OPTIONS))
            self.a, self.b = self.hosts
            for host in self.hosts:
                host.start_gangd()
                host.start_libvirtd()
        except BaseException:
            self.close()
            raise

    def domains(self, count, memory_mb=128, workload="idle"):
        """The first domains of the pool, running, all on one host: where they
        are, if they are together, else on A."""
        mine = []
        for index in range(count):
            key = (index, memory_mb, workload)
            mine.append(self.pool.setdefault(key, Domain(Spec(*key))))
        places = {domain.host for domain in mine if domain.host}
        self._clear(mine, places.pop() if len(places) == 1 else self.a)
        home = next((domain.host for domain in mine if domain.host), self.a)
        fresh = [domain for domain in mine if domain.host is None]
        for domain in fresh:
            domain.start(home)
        for domain in fresh:
            domain.wait_ready()
        for domain in mine:
            domain.wait_beats(1)
        return mine

    def add(self, index, memory_mb=128, **kw):
        """One more domain, just started on A; it ends with the next domains()."""
        domain = Domain(Spec(index, memory_mb), **kw)
        domain.start(self.a)
        return domain

    def _clear(self, wanted, home):
        """Ends what is not as a test wants to find it: the wanted domains may
        run at home, others of the pool anywhere."""
        for host in self.hosts:
            for daemon in ("gangd", "libvirtd"):
                if daemon not in host.pids or not host.alive(daemon):
                    getattr(host, f"start_{daemon}")()
            good = {domain.name for domain in self.pool.values() if domain.host is host and
                    (host is home or domain not in wanted)}
            for name, state in host.domains().items():
                if name not in good or state != "running":
                    host.virsh("destroy", name)
            for name in host.virsh("list", "--all", "--persistent", "--name").stdout.split():
                host.virsh("undefine", name)
            running = host.domains()
            for domain in self.pool.values():
                if domain.host is host and domain.name not in running:
                    domain.host = None

    def migrate(self, domains, *options, gang="web", suspend=True, check=True):
        """virsh migrate --gang, from where they are to the other host.  suspend:
        they stay paused there, for the oracle."""
        here = domains[0].host
        done = here.virsh(*self.command(domains, *options, gang=gang, suspend=suspend),
                          check=check)
        if done.returncode == 0:
            self.arrived(domains)
        return done

    def command(self, domains, *options, gang="web", suspend=True):
        first, *others = domains
        argv = ["migrate", "--live", "--gang", gang, first.name, self.other(first.host).uri]
        argv += ["--suspend"] if suspend else []
        for domain in others:
            argv += ["--with", domain.name]
        return argv + list(options)

    def virsh_argv(self, domains, *options, **kw):
        return [VIRSH, "-q", *self.command(domains, *options, **kw)]

    def arrived(self, domains):
        for domain in domains:
            domain.host = self.other(domain.host)

    def check_move(self, domains, *options, **kw):
        """Moves them; RAM is the same at hand-over, and the guests go on."""
        sources = [domain.ram() for domain in domains]
        try:
            done = self.migrate(domains, *options, **kw)
            self.check_ram(domains, sources)
        finally:
            for ram in sources:
                ram.close()
        self.go_on(domains)
        return done

    @staticmethod
    def check_ram(domains, sources):
        for domain, ram in zip(domains, sources):
            assert domain.state() == "paused"
            there = domain.ram()
            try:
                ram.check_identical(there)
            finally:
                there.close()

    @staticmethod
    def go_on(domains, beats=2):
        for domain in domains:
            domain.host.virsh("resume", domain.name)
        for domain in domains:
            domain.wait_beats(beats)

    def start_move(self, domains, *options, **kw):
        """virsh in the background, in the middle of the migration."""
        here = domains[0].host
        process = here.spawn(*self.virsh_argv(domains, *options, **kw))
        try:
            self.wait_sending(domains, process.alive)
        except RuntimeError as e:
            raise RuntimeError(f"{e}: {process.output()}") from None
        return process

    def wait_sending(self, domains, alive):
        """Waits until each has sent something; alive tells if virsh still runs."""
        for domain in domains:
            wait_for(lambda d=domain: self.sent(d) > 2e6 or not alive(), 60,
                     f"{domain.name} to send")
        if not alive():
            raise RuntimeError("virsh ended too early")

    def move_by_qmp(self, domains, **parameters):
        """Moves paused domains to plain QEMUs on the other host, by QMP alone;
        the bytes on the wire.  The domains end with it."""
        there = self.other(domains[0].host)
        monitors, sources = [], [domain.ram() for domain in domains]
        try:
            for domain in domains:
                monitors.append(domain.start_plain_destination(there))
            before = self.net.wire_bytes()
            for i, qmp in enumerate(monitors):
                qmp.parameters(**parameters)
                qmp.cmd("gang-migrate-incoming", uri=f"tcp:{there.address}:{5000 + i}",
                        gang_id="qmp")
            for i, domain in enumerate(domains):
                domain.monitor("migrate-set-parameters", **parameters)
                domain.monitor("gang-migrate", uri=f"tcp:{there.address}:{5000 + i}",
                               gang_id="qmp", gang_members=len(domains))
            for domain in domains:
                wait_for(lambda: domain.monitor("query-migrate")["status"] in
                         ("completed", "failed"), 120, f"{domain.name} to arrive")
                assert domain.monitor("query-migrate")["status"] == "completed"
            moved = self.net.wire_bytes() - before
            for domain, ram in zip(domains, sources):
                copy = RAM(domain.name, there.pids[f"plain-{domain.name}"])
                ram.check_identical(copy)
                copy.close()
            return moved
        finally:
            for qmp in monitors:
                qmp.close()
            for ram in sources:
                ram.close()
            for domain in domains:
                there.stop(f"plain-{domain.name}", signal.SIGKILL)
                domain.host.virsh("destroy", domain.name)

    @staticmethod
    def sent(domain):
        return domain.monitor("query-migrate").get("ram", {}).get("transferred", 0)

    @staticmethod
    def check_stayed(domains):
        """Runs at the source, and no parameter of the gang was left behind."""
        for domain in domains:
            wait_for(lambda: domain.state() == "running", 20, f"{domain.name} to run")
            parameters = domain.monitor("query-migrate-parameters")
            assert {name: parameters[name] for name in NO_GANG} == NO_GANG
            domain.wait_beats(1)

    def gone(self, domains, host):
        """Nothing of them runs there."""
        return not {domain.name for domain in domains} & set(host.domains())

    def ways(self, domains):
        """Where they are, and where they would go."""
        return domains[0].host, self.other(domains[0].host)

    def other(self, host):
        return self.b if host is self.a else self.a

    def close(self):
        for host in self.hosts:
            host.close()
        self.net.close()
        if os.environ.get("GANG_KEEP_LOGS"):
            print(f"logs: {self.rundir}")
        else:
            shutil.rmtree(self.rundir, ignore_errors=True)
