# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Gangs that something happens to: the domains it does not concern arrive with
the same RAM, the others run at the source, with no parameter left behind."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time

import pytest

from ganglib.process import wait_for
from ganglib.vm import Spec

from virtlib.domain import Domain
from virtlib.host import VirshError

SLOW = 60  # Mbit/s: a gang takes some seconds


def lines_of(terminal):
    """What comes from a terminal, until nobody has it open any more."""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            return
        if not data:
            return
        yield data


def wait_end(process, timeout=90):
    wait_for(lambda: not process.alive(), timeout, lambda: f"virsh: {process.output()}")
    return process.child.returncode


def test_a_domain_that_the_destination_refuses_stays_and_the_others_arrive(rig):
    bad, *good = domains = rig.domains(3)
    here, there = rig.ways(domains)
    here.stop("gangd")
    here.start_gangd("--barrier-timeout", "3")  # so long they wait for the bad one
    there.write("occupied.xml", bad.xml().replace(f"<name>{bad.name}<", "<name>occupied<"))
    there.virsh("define", there.path("occupied.xml"))
    sources = [domain.ram() for domain in good]
    done = rig.migrate(domains, check=False)
    here.stop("gangd")
    here.start_gangd()
    assert done.returncode == 1
    assert f"Domain '{bad.name}' did not migrate: " in done.stderr
    assert "occupied" in done.stderr
    rig.arrived(good)
    rig.check_ram(good, sources)
    rig.go_on(good)
    rig.check_stayed([bad])
    there.virsh("undefine", "occupied")
    rig.check_move([bad], gang="later")


def test_a_domain_whose_destination_dies_stays_and_the_others_arrive(rig):
    bad, *good = domains = rig.domains(3)
    there = rig.ways(domains)[1]
    sources = [domain.ram() for domain in good]
    rig.net.shape(SLOW)
    process = rig.start_move(domains)
    os.kill(int(there.read(f"run/libvirt/qemu/{bad.name}.pid")), signal.SIGKILL)
    assert wait_end(process) == 1
    assert f"Domain '{bad.name}' did not migrate: " in process.output()
    rig.arrived(good)
    rig.check_ram(good, sources)
    rig.go_on(good)
    rig.check_stayed([bad])
    rig.net.shape(0)
    rig.check_move([bad], gang="later")


def test_all_or_nothing_none_leaves_when_one_destination_dies(rig):
    bad, *others = domains = rig.domains(3)
    there = rig.ways(domains)[1]
    rig.net.shape(SLOW)
    process = rig.start_move(domains, "--gang-policy", "all-or-nothing")
    os.kill(int(there.read(f"run/libvirt/qemu/{bad.name}.pid")), signal.SIGKILL)
    assert wait_end(process) == 1
    for domain in domains:
        assert f"Domain '{domain.name}' did not migrate: " in process.output()
    rig.check_stayed(domains)
    rig.net.shape(0)
    rig.check_move(domains, gang="later")


def test_an_interrupted_virsh_aborts_all_and_they_can_migrate_later(rig):
    domains = rig.domains(3)
    rig.net.shape(SLOW)
    process = rig.start_move(domains)
    process.kill(signal.SIGINT)
    assert wait_end(process) == 1
    for domain in domains:
        assert f"Domain '{domain.name}' did not migrate: " in process.output()
    assert process.output().count("error: ") == len(domains)
    rig.check_stayed(domains)
    assert rig.gone(domains, rig.ways(domains)[1])
    rig.net.shape(0)
    rig.check_move(domains)


def test_an_interrupt_while_they_wait_for_one_that_does_not_come(rig):
    domains = rig.domains(2)
    process = domains[0].host.spawn(*rig.virsh_argv(domains, "--gang-members", "3"))
    for domain in domains:
        wait_for(lambda d=domain: d.monitor("query-migrate").get("status") == "active" or
                 not process.alive(), 20, f"{domain.name} to join")
    process.kill(signal.SIGINT)
    assert wait_end(process, 10) == 1  # they would wait for 15 s
    assert all(rig.sent(domain) < 1e6 for domain in domains)
    rig.check_stayed(domains)
    rig.check_move(domains)


def test_a_daemon_without_a_worker_left_does_not_hold_virsh(rig):
    """Neither abort nor progress gets through while a gang has all workers."""
    domains = rig.domains(2)
    here, there = rig.ways(domains)
    usual = here.read("etc/libvirtd.conf")

    def restart(configuration):
        here.stop("libvirtd")
        here.write("etc/libvirtd.conf", configuration)
        here.start_libvirtd()

    restart(usual + "min_workers = 1\nmax_workers = 2\n")
    try:
        rig.net.shape(SLOW // 6)
        before = rig.net.wire_bytes()
        process = here.spawn(*rig.virsh_argv(domains, "--verbose"))
        wait_for(lambda: rig.net.wire_bytes() - before > 3e6 or not process.alive(), 60,
                 "some bytes on the wire")
        process.kill(signal.SIGINT)
        wait_for(lambda: "max_workers" in process.output() or not process.alive(), 20,
                 "virsh to tell why it waits")
        assert process.alive(), process.output()
        process.kill(signal.SIGINT)
        assert wait_end(process, 5) == -signal.SIGINT
        wait_for(lambda: rig.gone(domains, there), 30, "the destination to clean up")
        rig.net.shape(0)
        rig.check_stayed(domains)
    finally:
        restart(usual)


def test_domains_of_a_killed_virsh_stay(rig):
    domains = rig.domains(2)
    rig.net.shape(SLOW)
    process = rig.start_move(domains)
    process.kill(signal.SIGKILL)
    wait_end(process)
    there = rig.ways(domains)[1]
    wait_for(lambda: rig.gone(domains, there), 30, "the destination to clean up")
    rig.net.shape(0)
    rig.check_stayed(domains)


def test_p2p_goes_on_without_virsh(rig):
    domains = rig.domains(2)
    here, there = rig.ways(domains)
    sources = [domain.ram() for domain in domains]
    rig.net.shape(SLOW)
    process = rig.start_move(domains, "--p2p")
    process.kill(signal.SIGKILL)
    wait_end(process)
    rig.net.shape(0)
    wait_for(lambda: rig.gone(domains, here), 60, "the domains to leave")
    rig.arrived(domains)
    rig.check_ram(domains, sources)
    rig.go_on(domains)


@pytest.mark.parametrize("rows", [24, 3])
def test_ctrl_c_on_a_terminal_aborts_all(rig, rows):
    """Of 3 rows one is the cursor's: no room for two domains and the gang."""
    domains = rig.domains(2)
    rig.net.shape(SLOW)
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", rows, 80, 0, 0))
    virsh = subprocess.Popen(
        domains[0].host.inside(*rig.virsh_argv(domains, "--verbose")),
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown = []
    reader = threading.Thread(target=lambda: shown.extend(lines_of(master)), daemon=True)
    reader.start()
    try:
        rig.wait_sending(domains, lambda: virsh.poll() is None)
        time.sleep(0.5)  # so that some progress is shown
        os.write(master, b"\x03")
        assert virsh.wait(30) == 1
    finally:
        virsh.kill()
        reader.join(10)
        os.close(master)
    text = b"".join(shown).decode()
    for domain in domains:
        assert f"{domain.name}: [" in text
        assert f"Domain '{domain.name}' did not migrate: " in text
    assert "Gang web: [" in text and "0 of 2 arrived" in text
    assert ("\033[3A" in text) == (rows == 24)
    rig.check_stayed(domains)


def test_domains_that_take_too_long_are_suspended(rig):
    domains = rig.domains(2)
    rig.net.shape(SLOW)
    process = rig.start_move(domains, "--timeout", "2", suspend=False)
    wait_for(lambda: all(domain.state() == "paused" for domain in domains), 20, "the suspension")
    rig.net.shape(0)
    assert wait_end(process) == 0, process.output()
    rig.arrived(domains)
    for domain in domains:
        domain.wait_beats(1)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_restarted_libvirtd_leaves_all_at_the_source(rig, side):
    """libvirt's own rule for a daemon that restarts during a migration."""
    domains = rig.domains(3)
    here, there = rig.ways(domains)
    host = here if side == "source" else there
    rig.net.shape(SLOW)
    process = rig.start_move(domains)
    host.stop("libvirtd", signal.SIGKILL)
    host.start_libvirtd()
    assert wait_end(process) == 1
    rig.net.shape(0)
    rig.check_stayed(domains)
    wait_for(lambda: rig.gone(domains, there), 30, "the destination to clean up")
    rig.check_move(domains, gang="later")


def test_without_a_coordinator_nothing_starts(rig):
    domains = rig.domains(2)
    there = rig.ways(domains)[1]
    there.stop("gangd")
    done = rig.migrate(domains, check=False)
    assert done.returncode == 1
    assert "gang" in done.stderr and "/run/gang/gangd.sock" in done.stderr
    rig.check_stayed(domains)
    assert rig.gone(domains, there)


@pytest.mark.parametrize("options, message", [
    (["--tunnelled", "--p2p"], "--gang and --tunnelled are mutually exclusive"),
    (["--postcopy"], "--gang and --postcopy are mutually exclusive"),
    (["--dname", "x"], "--dname is for one domain"),
    (["--xml", "x"], "--xml is for one domain"),
    (["--with", "vm0"], "Domain 'vm0' is given twice"),
    (["--gang-members", "1"], "A gang of 1 has no room for 2 domains"),
    (["--with", "nobody"], "failed to get domain 'nobody'"),
    (["stray"], "'stray' is no migration URI; give each further domain with --with"),
    (["--migrateuri", "tcp:host:49152"], "'tcp:host:49152' is no migration URI"),
    (["--gang-members", "500"], "A gang has 1 to 128 members, not 500"),
    (["--bandwidth", "x"], "<bandwidth> option is malformed"),
])
def test_what_cannot_be_is_refused_before_anything_starts(rig, options, message):
    domains = rig.domains(2)
    before = rig.net.wire_bytes()
    with pytest.raises(VirshError, match=message):
        rig.migrate(domains, *options)
    assert rig.net.wire_bytes() - before < 1e6
    assert all(domain.state() == "running" for domain in domains)


def test_a_domain_that_does_not_run_is_refused_before_anything_starts(rig):
    domain, = rig.domains(1)
    idle = Domain(Spec(40))
    idle.host = domain.host
    idle.define()
    before = rig.net.wire_bytes()
    with pytest.raises(VirshError, match=f"Domain '{idle.name}' is not running"):
        rig.migrate([domain, idle])
    assert rig.net.wire_bytes() - before < 1e6
    assert domain.state() == "running"


def test_a_companion_that_qemu_does_not_have_is_refused_by_name(rig):
    domain, = rig.domains(1)
    missing = [name for name in ("policy", "dedup", "compression")
               if f"gang-{name}" not in domain.monitor("query-migrate-parameters")]
    for name in missing:
        with pytest.raises(VirshError, match=f"Migration parameter 'gang-{name}' is not supported"):
            rig.migrate([domain], f"--gang-{name}", "any")
    with pytest.raises(VirshError, match="gang-policy"):
        rig.migrate([domain], "--gang-policy", "nonsense")
    with pytest.raises(VirshError, match="gang-compression"):
        rig.migrate([domain], "--gang-compression", "nonsense")
    rig.check_stayed([domain])
