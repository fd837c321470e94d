# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""All that crosses a network interface: what kind of packets, and is a known
text in them.

    python3 -m ganglib.capture INTERFACE MARKER PORT...

Prints "capturing"; on SIGTERM a line of JSON: packets and bytes of TCP to or from
one of the ports, what else there was, how many packets got lost here, and how
often MARKER was met in what TCP carried."""

import collections
import json
import os
import signal
import socket
import struct
import sys

from .process import TOP, Process, wait_for

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
IPPROTO_TCP, IPPROTO_ICMPV6 = 6, 58
SO_RCVBUFFORCE, SOL_PACKET, PACKET_STATISTICS = 33, 263, 6
PACKET_OUTGOING = 4
# More than a test moves, so that nothing gets lost however late we come.
BUFFER = 1 << 30


class Seen:
    def __init__(self, marker, ports):
        self.marker, self.ports = marker, ports
        self.packets = self.bytes = self.markers = 0
        self.other = collections.Counter()
        self.tail = {}  # of each direction of a connection: the marker may be cut

    def add(self, frame):
        kind, = struct.unpack_from("!H", frame, 12)
        # How hosts find each other's link addresses: the link's own business.
        if kind == ETH_P_ARP or (kind == ETH_P_IPV6 and self.neighbour(frame)):
            return
        if kind != ETH_P_IP or frame[23] != IPPROTO_TCP:
            self.other[f"ethertype {kind:#x} protocol {frame[23]}"] += 1
            return
        tcp = 14 + (frame[14] & 15) * 4
        ports = struct.unpack_from("!HH", frame, tcp)
        if not self.ports & set(ports):
            self.other[f"TCP {ports[0]} to {ports[1]}"] += 1
            return
        total, = struct.unpack_from("!H", frame, 16)
        begin = tcp + (frame[tcp + 12] >> 4) * 4
        payload = frame[begin:14 + total] if total else frame[begin:]
        self.packets += 1
        self.bytes += len(payload)
        data = self.tail.get(ports, b"") + payload
        self.markers += data.count(self.marker)
        self.tail[ports] = data[len(data) - len(self.marker) + 1:]

    @staticmethod
    def neighbour(frame):
        """ICMPv6 of neighbour discovery and group membership."""
        header = frame[20]
        body = 54
        if header == 0:  # hop-by-hop options, as membership reports have them
            header, body = frame[54], 62 + frame[55] * 8
        return header == IPPROTO_ICMPV6 and frame[body] in (*range(130, 138), 143)


def main(interface, marker, *ports):
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.bind((interface, ETH_P_ALL))
    sock.settimeout(0.2)
    seen = Seen(marker.encode(), set(map(int, ports)))
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    print("capturing", flush=True)
    while True:
        try:
            frame = sock.recv(1 << 17)
        except TimeoutError:
            if ending:  # and nothing is left to read
                break
            continue
        seen.add(frame)
    _, lost = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(json.dumps({"packets": seen.packets, "bytes": seen.bytes, "markers": seen.markers,
                      "other": dict(seen.other), "lost": lost}), flush=True)


class Capture:
    """Captures on the link, at one host."""

    def __init__(self, rundir, host, marker, ports):
        env = dict(os.environ, PYTHONPATH=os.path.join(TOP, "tests/integration"),
                   PYTHONDONTWRITEBYTECODE="1")
        self.process = Process([sys.executable, "-m", "ganglib.capture", "wire", marker,
                                *map(str, ports)], os.path.join(rundir, "capture.log"),
                               netns=host.netns, env=env)
        wait_for(lambda: "capturing" in self.process.output(), 20, self.process.output)

    def result(self):
        self.process.end(60)
        text = self.process.output()
        return json.loads(text[text.index("{"):])

    def close(self):
        self.process.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
