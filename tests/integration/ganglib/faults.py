# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""What may go wrong with a hop.  Each is called with the fleet and members."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

from .qmp import QMPError

# What may go wrong on the way, while all members are sending, slowly

def one_is_cancelled(fleet, members):
    fleet.chance.choice(members).source.cmd("migrate_cancel")


def all_are_cancelled(_, members):
    for member in members:
        member.source.cmd("migrate_cancel")


def a_destination_is_killed(fleet, members):
    fleet.chance.choice(members).destination.process.kill()


def a_destination_stalls(fleet, members):
    process = fleet.chance.choice(members).destination.process
    process.kill(signal.SIGSTOP)
    time.sleep(fleet.chance.uniform(0.5, 2))
    process.kill(signal.SIGCONT)


def kill(process):
    process.kill()
    process.child.wait(10)


def the_source_gangd_is_killed(fleet, _):
    kill(fleet.gangds[fleet.at_b].process)


def the_destination_gangd_is_killed(fleet, _):
    kill(fleet.gangds[not fleet.at_b].process)


def the_link_is_cut_and_restored(fleet, _):
    fleet.hosts.cut(True)
    time.sleep(fleet.chance.uniform(0.5, 3))
    fleet.hosts.cut(False)


def cancelled_at_any_moment(fleet, members):
    """At full speed, so perhaps during the switchover, or too late."""
    for member in members:
        member.source.qmp.parameters(max_bandwidth=1 << 40)
    time.sleep(fleet.chance.uniform(0, 2))
    for member in fleet.chance.sample(members, fleet.chance.randint(1, len(members))):
        member.source.cmd("migrate_cancel")


EARLY = (one_is_cancelled, all_are_cancelled, a_destination_is_killed, a_destination_stalls,
         the_source_gangd_is_killed, the_destination_gangd_is_killed,
         the_link_is_cut_and_restored, cancelled_at_any_moment)


# What may go wrong when a guest has been stopped at the source, and what the
# destination lacks has not been sent

def go_on(member):
    try:
        member.source.cmd("migrate-continue", state="pre-switchover")
    except QMPError:  # it has failed, or is cancelled
        if member.source.status() == "pre-switchover":
            raise


def cancelled_at_the_switchover(_, members):
    members[0].source.cmd("migrate_cancel")


def the_destination_is_killed_at_the_switchover(_, members):
    kill(members[0].destination.process)
    go_on(members[0])


def the_link_is_cut_at_the_switchover(fleet, members):
    """Its monitor may not answer before the link is back: its main loop waits, too."""
    fleet.hosts.cut(True)
    with ThreadPoolExecutor(1) as pool:
        gone_on = pool.submit(go_on, members[0])
        time.sleep(fleet.chance.uniform(0.2, 2))
        fleet.hosts.cut(False)
        gone_on.result()


LATE = (cancelled_at_the_switchover, the_destination_is_killed_at_the_switchover,
        the_link_is_cut_at_the_switchover)
FAULTS = EARLY + LATE

# With these no member completes before the fault has come.
PAUSING = tuple(fault for fault in FAULTS if fault is not cancelled_at_any_moment)

# How many may stay where they were, of so many; nobody, after any other fault.
STAYING = {one_is_cancelled: lambda of: [1], a_destination_is_killed: lambda of: [1],
           all_are_cancelled: lambda of: [of],
           cancelled_at_any_moment: lambda of: range(of + 1),
           cancelled_at_the_switchover: lambda of: [1],
           the_destination_is_killed_at_the_switchover: lambda of: [1]}
