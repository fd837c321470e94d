# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A hostile source and a hostile destination, between real QEMUs: the one that is
lied to ends its migration or completes it, never by a signal and never not at all;
the source VM runs on; the other members of the gang arrive identical.

The short run tells the same lies each time, the long one others; GANG_SEED repeats
one."""

import os
import random
import sys

import pytest

from ganglib import gang, vm
from ganglib.process import TOP, Process, wait_for

ATTEMPTS, LONG_ATTEMPTS = 3, 40
# Pages that were not announced, descriptions; numbers, channels, one acknowledgement twice.
FIRST = {"source": 8, "destination": 22}


def hostile(bed, member, side, seed):
    member.via = member.port + 100
    env = dict(os.environ, PYTHONPATH=os.path.join(TOP, "tests/integration"),
               PYTHONDONTWRITEBYTECODE="1")
    peer = Process([sys.executable, "-m", "ganglib.hostile", bed.hosts.b.address, str(member.via),
                    str(member.port), side, str(seed)],
                   os.path.join(bed.rundir, f"hostile-{seed}.log"), netns=bed.hosts.b.netns,
                   env=env)
    bed.closers.append(peer.end)
    wait_for(lambda: "listening" in peer.output(), 30, "the hostile peer")
    return peer


def ended(vm, seconds):
    try:
        return vm.wait_migration(seconds, want=None)
    except TimeoutError:
        return None


def attempt(bed, members, gangds, side, seed, gang_id):
    """The first of the members is lied to, or lies."""
    victim, *others = members
    peer = hostile(bed, victim, side, seed)
    gang.start(members, bed.hosts, gangds, gang_id=gang_id)
    wait_for(lambda: "hostile:" in peer.output() or victim.source.status() in gang.DONE,
             120, "the lie to be told")
    status = ended(victim.source, 20)
    said = peer.output().replace("listening\n", "").strip()
    print(f"{side} {seed}: {said}: {status}, "
          f"{victim.source.cmd('query-migrate').get('error-desc')}")
    assert said.startswith("hostile:")
    if status is None:  # a destination that owes an answer: the administrator may stop it
        victim.source.cmd("migrate_cancel")
        assert victim.source.wait_migration(60, want=None) in ("cancelled", "failed")
    # It may be left without an end of its connections by a peer that holds them.
    peer.end()
    assert victim.destination.process.alive(), victim.destination.process.output()
    if victim.destination.status() != "none":
        assert victim.destination.wait_migration(60, want=None) in ("failed", "completed")
    gang.wait(others, 120)
    gang.check(others)
    if status == "completed":  # it was told nothing wrong, or was believed
        victim.source.cmd("cont")
    assert victim.source.run_state() == "running"
    victim.source.wait_beats(1)
    victim.destination.close()
    assert gangds[0].process.alive() and gangds[1].process.alive()


def play(bed, side, attempts, first):
    first = int(os.environ.get("GANG_SEED") or first)
    print(f"GANG_SEED={first}")
    gangds = bed.gangds("--barrier-timeout", "3")  # who is lied to may never join
    source, other = bed.guests(2)
    for i in range(attempts):
        # Once with another member beside it, which must not notice.
        sources = [source] if i else [source, other]
        members = bed.prepare(sources, gangds, gang_id=f"gang-{i}", label=f"-{i}")
        attempt(bed, members, gangds, side, first + i, f"gang-{i}")
    last = bed.prepare([source], gangds, gang_id="last", label="-last")
    bed.migrate(last, gangds, gang_id="last")
    gang.run_at_destination(last)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_inv4_inv5_inv6_a_hostile_peer_fails_its_member_only(bed, side):
    play(bed, side, ATTEMPTS, FIRST[side])


def test_inv5_a_source_that_takes_no_acknowledgements_holds_no_destination(bed):
    """It fails, answers its monitor, and leaves the gang."""
    gangd = bed.gangd(bed.hosts.b)
    destination = vm.VM(vm.Spec(0, 128), bed.rundir, bed.hosts.b, incoming=True)
    bed.closers.append(destination.close)
    gang.tune(destination, "gang", 1)
    destination.cmd("gang-migrate-incoming", uri=f"tcp:{bed.hosts.b.address}:{gang.PORT}",
                    gang_id="silent", gang_socket=gangd.socket, exit_on_error=False)
    env = dict(os.environ, PYTHONPATH=os.path.join(TOP, "tests/integration"),
               PYTHONDONTWRITEBYTECODE="1")
    peer = Process([sys.executable, "-m", "ganglib.silent", bed.hosts.b.address, str(gang.PORT),
                    vm.MACHINE, "ram"], os.path.join(bed.rundir, "silent.log"),
                   netns=bed.hosts.b.netns, env=env)
    bed.closers.append(peer.end)
    wait_for(lambda: "packets" in peer.output() or not peer.alive(), 120, "the destination to be full")
    sent = int(peer.output().split()[0])
    print(f"{sent} packets")
    assert destination.wait_migration(30, want=None) == "failed"
    assert peer.alive()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("side", ["source", "destination"])
def test_inv4_inv5_inv6_many_hostile_peers_fail_their_member_only(bed, side):
    play(bed, side, LONG_ATTEMPTS, random.SystemRandom().randrange(1 << 32))
