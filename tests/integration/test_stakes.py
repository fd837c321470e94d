# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Guests with real stakes, which move to and fro: clients outside write to
databases in them, each over one TCP connection that lives as long as the test,
and at the end no acknowledged write is missing.  The guests check memory, a file
that grows and what redis holds; the harness compares all RAM at each hand-over,
sees that each guest runs at one place, and looks for what gangs leave behind.

GANG_STAKES_SEED repeats a run's choices, GANG_STAKES_HOPS sets the number of hops
of the long ones."""

import os
import random
import sys

import pytest

from ganglib.process import TOP

sys.path.insert(0, os.path.join(TOP, "tests/bench"))

from ganglib import faults, fleet  # noqa: E402

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/net/tun"),
                                reason="guests cannot have a network here: no /dev/net/tun")

HOPS = int(os.environ.get("GANG_STAKES_HOPS", "50"))


def seed():
    value = int(os.environ.get("GANG_STAKES_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"GANG_STAKES_SEED={value}")
    return value


def journey(bed, guests, choose):
    """choose(chance): what happens in each of the hops."""
    it = fleet.Fleet(bed, guests, seed())
    for fault in choose(it.chance):
        it.hop(fault)
    it.verify()
    it.check_leaks()


def test_the_client_sees_one_lost_write(bed):
    """A test that cannot fail is a defect: this one is about the client."""
    client, = fleet.Fleet(bed, 1, seed()).clients
    client.run("lose")
    assert client.writer.child.wait(60) != 0
    assert "the list has" in client.writer.output()
    with pytest.raises(AssertionError, match="Damage: entry"):
        client.run("verify", client.record)


def test_no_acknowledged_write_is_lost_when_a_hop_goes_wrong(bed):
    journey(bed, 2, lambda chance: [None, chance.choice(faults.FAULTS), None])


@pytest.mark.long
@pytest.mark.parametrize("fault", faults.FAULTS)
def test_no_acknowledged_write_is_lost_by(bed, fault):
    journey(bed, 2, lambda chance: [fault, fault])


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_acknowledged_write_is_lost_in_a_long_journey_with_faults(bed):
    def shuffled(chance):
        """Each as often as the others, and a third of the hops without."""
        hops = []
        while len(hops) < HOPS:
            deck = list(faults.FAULTS + (None,) * 4)
            chance.shuffle(deck)
            hops += deck
        return hops[:HOPS]
    journey(bed, 4, shuffled)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_nothing_is_left_behind_by_a_long_journey(bed):
    journey(bed, 4, lambda chance: [None] * HOPS)
