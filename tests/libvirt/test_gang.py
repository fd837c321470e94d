# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Gangs that nothing happens to, moved by virsh and by a client of the API.
Every move asks the oracle for each domain."""

import os
import re
import subprocess

import pytest

from ganglib.process import product

from virtlib.domain import RAMDiffers


def figure(text, name):
    return int(re.search(rf"{name}: *(\d+)", text)[1])


def test_the_oracle_sees_one_changed_bit(rig):
    """A test that cannot fail is a defect: this one is about the oracle."""
    domain, = rig.domains(1)
    source = domain.ram()
    rig.migrate([domain])
    there = domain.ram()
    source.check_identical(there)
    there.flip_a_bit(there.size // 2 + 77)
    with pytest.raises(RAMDiffers, match=f"{there.size // 2 + 77:#x}"):
        source.check_identical(there)
    source.close()
    there.close()


def test_a_gang_of_one(rig):
    rig.check_move(rig.domains(1))


def test_a_gang_of_three_moves_there_and_back(rig):
    domains = rig.domains(3)
    here, there = rig.ways(domains)
    rig.check_move(domains)
    assert rig.gone(domains, here)
    rig.check_move(domains, gang="back")
    assert rig.gone(domains, there)


def test_a_gang_of_eight(rig):
    """More than a daemon serves over one connection at a time."""
    rig.check_move(rig.domains(8))


def test_domains_go_on_by_themselves(rig):
    domains = rig.domains(2)
    rig.migrate(domains, suspend=False)
    for domain in domains:
        assert domain.state() == "running"
        domain.wait_beats(2)


def test_p2p(rig):
    """The daemons talk to each other; qemumigparamstest knows what they tell."""
    rig.check_move(rig.domains(2), "--p2p", "--gang-compression", "none")


def test_tls(rig):
    rig.check_move(rig.domains(2), "--tls")


def test_persistent_and_undefinesource(rig):
    domains = rig.domains(2)
    here, there = rig.ways(domains)
    for domain in domains:
        domain.define()
    rig.check_move(domains, "--persistent", "--undefinesource")
    assert here.virsh("list", "--all", "--persistent", "--name").stdout.split() == []
    names = there.virsh("list", "--persistent", "--name").stdout.split()
    assert sorted(names) == sorted(domain.name for domain in domains)


def test_verbose_shows_a_line_a_domain_and_a_total(rig):
    domains = rig.domains(2)
    shown = rig.check_move(domains, "--verbose").stderr
    for domain in domains:
        assert f"{domain.name}: [100 %]\n" in shown
    assert re.search(r"Gang web: \[100 %\] 2 of 2 arrived, [1-9][0-9.]* MiB saved\n", shown)


def test_jobinfo_shows_what_the_gang_saves(rig):
    domains = rig.domains(2)
    here, there = rig.ways(domains)
    for domain in domains:  # so that it is there to be asked afterwards
        domain.define()
    rig.net.shape(100)
    process = rig.start_move(domains)
    running = [here.virsh("domjobinfo", "--rawstats", domain.name).stdout for domain in domains]
    rig.net.shape(0)
    assert process.child.wait(60) == 0
    rig.arrived(domains)
    for text in running:
        assert figure(text, "gang_members") == 2
    for host in here, there:
        done = [host.virsh("domjobinfo", "--completed", domain.name).stdout for domain in domains]
        assert all(figure(text, "Gang members") == 2 for text in done)
        assert sum(figure(text, "Gang pages saved") for text in done) > 1000
        assert sum(figure(text, "Gang pages shared") for text in done) > 1000
        assert all("Gang data saved:" in text for text in done)
    rig.go_on(domains)


@pytest.mark.parametrize("policy", ["together", "all-or-nothing"])
def test_switchover_policies(rig, policy):
    """libvirt sets pause-before-switchover and lets each domain go on by itself."""
    domains = rig.domains(2)
    sources = [domain.ram() for domain in domains]
    rig.net.shape(100)
    process = rig.start_move(domains, "--gang-policy", policy)
    told = [domain.monitor("query-migrate-parameters")["gang-policy"] for domain in domains]
    rig.net.shape(0)
    assert process.child.wait(60) == 0, process.output()
    assert told == [policy] * 2
    rig.arrived(domains)
    rig.check_ram(domains, sources)
    rig.go_on(domains)


def test_members_that_an_orchestrator_starts_one_by_one(rig):
    first, second = domains = rig.domains(2)
    sources = [domain.ram() for domain in domains]
    option = ("--gang-members", "2", "--p2p")
    process = first.host.spawn(*rig.virsh_argv([first], *option))
    rig.migrate([second], *option)
    assert process.child.wait(60) == 0, process.output()
    rig.arrived([first])
    rig.check_ram(domains, sources)
    rig.go_on(domains)


def test_a_client_of_the_api(rig):
    """tests/libvirt/examples/gang-migrate.c"""
    domains = rig.domains(3)
    sources = [domain.ram() for domain in domains]
    here, there = rig.ways(domains)
    argv = here.inside(product("gang-migrate-example"), "-s", "-c", "qemu:///system", "api",
                       there.uri, *(domain.name for domain in domains))
    subprocess.run(argv, check=True, timeout=120)
    rig.arrived(domains)
    rig.check_ram(domains, sources)
    rig.go_on(domains)
    again = subprocess.run(argv, timeout=60, capture_output=True, text=True)
    assert again.returncode == 1  # they are not there any more
    assert "Domain not found" in again.stderr


def test_as_many_bytes_as_by_qmp(rig):
    """Paused guests go there by virsh, then back by gang-migrate: the same
    memory, so the same bytes, within 2 %.  With a fixed compression: "auto"
    goes by the link and the CPUs of the moment."""
    domains = rig.domains(3)
    for domain in domains:
        domain.host.virsh("suspend", domain.name)
    before = rig.net.wire_bytes()
    rig.migrate(domains, "--gang-compression", "zstd")
    by_virsh = rig.net.wire_bytes() - before
    by_qmp = rig.move_by_qmp(domains, gang_compression="zstd")
    assert by_virsh == pytest.approx(by_qmp, rel=0.02)


@pytest.mark.skipif(not os.path.exists(product("qemu-system-x86_64-stock")),
                    reason="no stock QEMU built")
def test_a_qemu_without_gangs_is_refused_by_name(rig):
    rig.domains(0)
    domain = rig.add(9, emulator=product("qemu-system-x86_64-stock"))
    done = rig.migrate([domain], check=False)
    assert done.returncode == 1
    assert ("gang migration is not supported by QEMU binary "
            f"{product('qemu-system-x86_64-stock')}") in done.stderr
    assert domain.state() == "running"
