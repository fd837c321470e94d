# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The network of the guests: one Ethernet over both hosts, and clients outside.

      clients (namespace C)          host A              host B
      198.51.100.1 on lan  ---veth--- lan --- tap0...     |
                           \\--veth----------------------- lan --- tap0...

Bridges learn from what a guest sends where it is now, as switches do; the
link between the hosts, which migrations go over, is another one."""

from .net import _ip

NETWORK = "198.51.100"
CLIENTS = f"{NETWORK}.1"
BITS = 24


def guest_address(index):
    return f"{NETWORK}.{10 + index}"


class Lan:
    """Taps for so many guests on each host, and a namespace for clients."""

    def __init__(self, hosts, guests):
        self.netns = hosts.a.netns.removesuffix("-a") + "-c"  # what remove_stale() knows
        _ip("netns", "add", self.netns)
        try:
            _ip("-n", self.netns, "link", "set", "lo", "up")
            self._bridge(self.netns)
            _ip("-n", self.netns, "addr", "add", f"{CLIENTS}/{BITS}", "dev", "lan")
            for host in (hosts.a, hosts.b):
                self._bridge(host.netns)
                port = f"to-{host.letter}"
                _ip("-n", self.netns, "link", "add", port, "type", "veth",
                    "peer", "name", "uplink", "netns", host.netns)
                self._port(self.netns, port)
                self._port(host.netns, "uplink")
                for index in range(guests):
                    _ip("-n", host.netns, "tuntap", "add", f"tap{index}", "mode", "tap")
                    self._port(host.netns, f"tap{index}")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _bridge(netns):
        _ip("-n", netns, "link", "add", "name", "lan", "type", "bridge")
        _ip("-n", netns, "link", "set", "lan", "up")

    @staticmethod
    def _port(netns, name):
        _ip("-n", netns, "link", "set", name, "master", "lan", "up")

    def close(self):
        _ip("netns", "del", self.netns, check=False)
