# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Two hosts: network namespaces A and B, joined by a link of a given rate."""

import itertools
import os
import subprocess

PREFIX = "gang"
_serial = itertools.count()


def _ip(*args, check=True):
    return subprocess.run(["ip", *args], check=check, capture_output=True, text=True).stdout


def remove_stale():
    """Namespaces whose owner was killed before it could remove them."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        part = name.split("-")
        if part[0] == PREFIX and len(part) == 4 and part[1].isdigit():
            if not os.path.exists(f"/proc/{part[1]}"):
                _ip("netns", "del", name, check=False)


class Host:
    """One end: runs processes in netns, is reached at address."""

    def __init__(self, letter, name, address):
        self.letter, self.netns, self.address = letter, name, address


class Hosts:
    """A and B.  rate_mbit 0: unshaped.  Use as a context manager."""

    def __init__(self, rate_mbit=0):
        remove_stale()
        stem = f"{PREFIX}-{os.getpid()}-{next(_serial)}"
        self.rate_mbit = 0
        # The two networks are nobody else's, so the addresses can be the same
        # in every run.
        self.a = Host("a", f"{stem}-a", "192.0.2.1")
        self.b = Host("b", f"{stem}-b", "192.0.2.2")
        try:
            for host in (self.a, self.b):
                _ip("netns", "add", host.netns)
                _ip("-n", host.netns, "link", "set", "lo", "up")
            _ip("-n", self.a.netns, "link", "add", "wire", "type", "veth",
                "peer", "name", "wire", "netns", self.b.netns)
            for host in (self.a, self.b):
                _ip("-n", host.netns, "addr", "add", host.address + "/24", "dev", "wire")
                _ip("-n", host.netns, "link", "set", "wire", "up")
            self.shape(rate_mbit)
        except BaseException:
            self.close()
            raise

    def shape(self, rate_mbit):
        for host in (self.a, self.b):
            tc = ["ip", "netns", "exec", host.netns, "tc", "qdisc"]
            if self.rate_mbit:
                subprocess.run(tc + ["del", "dev", "wire", "root"], check=True)
            if rate_mbit:
                # A millisecond's worth: with less, a fast link does not get its rate.
                burst_kb = max(256, rate_mbit // 8)
                subprocess.run(tc + ["add", "dev", "wire", "root", "tbf", "rate",
                                     f"{rate_mbit}mbit", "burst", f"{burst_kb}kb",
                                     "latency", "50ms"], check=True)
        self.rate_mbit = rate_mbit

    def cut(self, yes=True):
        """The link carries nothing until it is restored."""
        for host in (self.a, self.b):
            _ip("-n", host.netns, "link", "set", "wire", "down" if yes else "up")

    def unplug(self, yes=True):
        """As cut(), but A sees nothing of it: what it sends is lost, no error says so."""
        if yes:  # nor does it miss an answer to ARP
            mac = _ip("-n", self.b.netns, "-o", "link", "show", "wire").split("link/ether ")[1]
            _ip("-n", self.a.netns, "neigh", "replace", self.b.address, "lladdr", mac.split()[0],
                "dev", "wire", "nud", "permanent")
        _ip("-n", self.b.netns, "link", "set", "wire", "down" if yes else "up")

    def wire_bytes(self):
        """Bytes that crossed the link since it exists, both ways."""
        total = 0
        out = subprocess.run(["ip", "netns", "exec", self.a.netns, "cat", "/proc/net/dev"],
                             check=True, capture_output=True, text=True).stdout
        for line in out.splitlines():
            if line.strip().startswith("wire:"):
                field = line.split(":")[1].split()
                total = int(field[0]) + int(field[8])
        return total

    def close(self):
        for host in (self.a, self.b):
            _ip("netns", "del", host.netns, check=False)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
