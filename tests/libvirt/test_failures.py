# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Gangs that something happens to: the domains it does not concern arrive with
the same RAM, the others run at the source, with no parameter left behind."""

import os
import pty
import signal
import subprocess
import threading
import time

import pytest

from ganglib.process import wait_for

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


def test_ctrl_c_on_a_terminal_aborts_all(rig):
    domains = rig.domains(2)
    rig.net.shape(SLOW)
    master, slave = pty.openpty()
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
])
def test_what_cannot_be_is_refused_before_anything_starts(rig, options, message):
    domains = rig.domains(2)
    before = rig.net.wire_bytes()
    with pytest.raises(VirshError, match=message):
        rig.migrate(domains, *options)
    assert rig.net.wire_bytes() - before < 1e6
    assert all(domain.state() == "running" for domain in domains)


def test_a_companion_that_qemu_does_not_have_is_refused_by_name(rig):
    domain, = rig.domains(1)
    missing = [name for name in ("policy", "dedup", "compression")
               if f"gang-{name}" not in domain.monitor("query-migrate-parameters")]
    for name in missing:
        with pytest.raises(VirshError, match=f"Migration parameter 'gang-{name}' is not supported"):
            rig.migrate([domain], f"--gang-{name}", "any")
    with pytest.raises(VirshError, match="gang-compression"):
        rig.migrate([domain], "--gang-compression", "nonsense")
    rig.check_stayed([domain])
