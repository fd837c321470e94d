# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A client outside, which notices when a guest stands still.

The guest sends a byte every PERIOD_MS over QEMU's debug port, which is a
socket; the client listens to a guest's source and destination at once and notes
when something came.  The longest gap is how long a user of that guest would have
waited, whatever the reason.  The client is a process of its own, with real-time
priority, so that its own delays are not measured:

    python3 -m gangbench.pulse OUT.json [NAME SOURCE_SOCKET DESTINATION_SOCKET]...

It says "listening", and on SIGTERM writes

    {NAME: {"source": {"pulses": [s, ..], "ops": [[s, n], ..]}, "destination": ..}}

with times of CLOCK_MONOTONIC, which all processes share."""

import json
import os
import selectors
import signal
import socket
import sys
import time

PERIOD_MS = 5
SIDES = ("source", "destination")


class Decoder:
    """The guest's bytes: 0 is a pulse; five bytes with the top bit set are its
    count of operations, seven bits each (cmd_pulse of gang-guest.c)."""

    def __init__(self):
        self.digits = []

    def feed(self, data):
        """How many pulses, and the last count of operations or None."""
        pulses, ops = 0, None
        for byte in data:
            if byte & 0x80:
                self.digits.append(byte & 0x7f)
                if len(self.digits) == 5:
                    ops = 0
                    for digit in self.digits:
                        ops = ops << 7 | digit
            else:
                self.digits = []  # also after a beginning that was not heard
                pulses += 1
        return pulses, ops


# What the times mean

def longest_gap(times, since, until):
    """Milliseconds of the longest time without a pulse that touches the window,
    or None where there are no two pulses."""
    times = sorted(times)
    gaps = [b - a for a, b in zip(times, times[1:]) if b > since and a < until]
    return round(max(gaps) * 1000, 1) if gaps else None


def handover(record):
    """Milliseconds from the source's last pulse to the destination's first."""
    source, destination = (record[side]["pulses"] for side in SIDES)
    if not source or not destination:
        return None
    return round((destination[0] - source[-1]) * 1000, 1)


def rate(samples, since, until):
    """Operations a second between the first and the last sample of a window;
    None where it has fewer than half a second."""
    inside = [(t, n) for t, n in samples if since <= t <= until]
    if len(inside) < 2 or inside[-1][0] - inside[0][0] < 0.5:
        return None
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def slowdown(source, since, start, until):
    """What part of its speed a guest lost at the source while it migrated: 0 is
    nothing, 1 is all.  The operations are the workload's; where it has none
    (idle), the pulses themselves."""
    samples = source["ops"]
    if not samples or samples[-1][1] == 0:
        samples = [(t, i) for i, t in enumerate(source["pulses"])]
    before, during = rate(samples, since, start), rate(samples, start, until)
    if not before or during is None:
        return None
    return round(1 - during / before, 4)


# The client

def _listen(out, names):
    selector = selectors.DefaultSelector()
    records = {}
    for name, *paths in names:
        records[name] = {side: {"pulses": [], "ops": []} for side in SIDES}
        for side, path in zip(SIDES, paths):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            selector.register(connection, selectors.EVENT_READ,
                              (records[name][side], Decoder()))
    end = []
    signal.signal(signal.SIGTERM, lambda *_: end.append(True))
    print("listening", flush=True)
    while not end and selector.get_map():
        for key, _ in selector.select(0.2):
            data = key.fileobj.recv(4096)
            now = round(time.monotonic(), 5)
            if not data:
                selector.unregister(key.fileobj)
                continue
            record, decoder = key.data
            pulses, ops = decoder.feed(data)
            if pulses:
                record["pulses"].append(now)
            if ops is not None:
                record["ops"].append([now, ops])
    with open(out, "w") as f:
        json.dump(records, f)


if __name__ == "__main__":
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError:
        print("no real-time priority: gaps may be the client's own", flush=True)
    _listen(sys.argv[1], [sys.argv[i:i + 3] for i in range(2, len(sys.argv), 3)])
