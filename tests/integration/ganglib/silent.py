# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A source of its own making that takes no acknowledgements, and then ends in nonsense:
python -m ganglib.silent ADDRESS PORT MACHINE RAMBLOCK.  Its packets describe a zero page
each; it sends until the destination takes no more."""

import select
import socket
import struct
import sys
import time

from .hostile import GREETING_SIZE, HEADER_SIZE, MULTIFD_MAGIC, RP_GANG, Xxh3

MULTIFD_VERSION = 1
MAGIC, VERSION, CONFIGURATION = 0x5145564d, 3, 7
OPEN_RETURN_PATH = struct.pack(">BHH", 8, 1, 0)
MOST = 3000000  # packets
BURST = 2000
STILL_S = 4


def packet(check, number, metadata):
    found = bytearray(struct.pack(">4sIIIHBBIQHHII", MULTIFD_MAGIC, MULTIFD_VERSION, 6, 0,
                                  len(metadata), 1, 0, number, 0, 1, 0, 0, 0) + metadata)
    assert len(found) == HEADER_SIZE + len(metadata)
    check.fix(found)
    return bytes(found)


def greeting_of(main):
    message = b""
    while len(message) < 4 + GREETING_SIZE:
        more = main.recv(4 + GREETING_SIZE - len(message))
        assert more, "the destination ended"
        message += more
    assert struct.unpack_from(">H", message)[0] == RP_GANG
    return message[4:]


def main(address, port, machine, ramblock):
    main_channel = socket.socket()
    main_channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    main_channel.settimeout(20)
    main_channel.connect((address, port))
    name = machine.encode()
    main_channel.sendall(struct.pack(">IIBI", MAGIC, VERSION, CONFIGURATION, len(name)) + name)
    channel = socket.create_connection((address, port))
    channel.sendall(struct.pack(">4sI16sB39s", MULTIFD_MAGIC, MULTIFD_VERSION, b"", 0, b""))
    main_channel.sendall(OPEN_RETURN_PATH)
    check = Xxh3(greeting_of(main_channel)[32:48])
    block = ramblock.encode()
    channel.sendall(packet(check, 1, bytes([len(block)]) + block + b"\1\0"))
    channel.setblocking(False)
    again = packet(check, 0, b"\0\1\1")  # its check does not know its number
    sent, left = 1, b""
    while sent < MOST:
        if len(left) < 1 << 16:
            left += b"".join(again[:20] + struct.pack(">I", n) + again[24:]
                             for n in range(sent + 1, sent + 1 + BURST))
            sent += BURST
        if not select.select([], [channel], [], STILL_S)[1]:
            break
        left = left[channel.send(left):]
    print(f"{sent} packets", flush=True)
    main_channel.sendall(b"\x77" * 8)
    time.sleep(300)  # the connections stay


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:5])
