# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A TCP forwarder that damages what goes to the destination.

    python3 -m ganglib.tamper ADDRESS LISTEN_PORT TARGET_PORT NTH WHAT

WHAT happens to the NTH gang packet and its connection:

    a number   one bit is flipped, so many bytes into the packet
               (docs/wire-format.md has the header's fields)
    format=V   its format version becomes V
    cut        the connection is closed in the middle of it
    end        after it the destination sees the connection end; the source
               does not: what it sends goes nowhere
    stall      this connection and another one stall; when nothing moves any
               more, the source sees the one reset, then the other goes on
    greeting=V the packets are left alone; the greeting's protocol version becomes V

Prints "tampered" when it is done."""

import asyncio
import socket
import sys

# multifd's magic and version, and the flags of a gang packet
START = bytes.fromhex("112233440000000100000006")
FORMAT_VERSION = 18  # where in a packet
# Return path: type 8, 56 bytes; a greeting of version 1 for pages of 4096 bytes
GREETING = bytes.fromhex("00080038" "0001" "0001" "00001000")
GREETING_VERSION = slice(6, 8)
QUIET_S = 1.0


class Tamper:
    def __init__(self, nth, what):
        self.left, self.what = nth, what
        self.forwarded = 0    # bytes, of all connections
        self.stalled = []     # writers to the source of stalled connections
        self.resume = asyncio.Event()
        self.kept = []        # what must not be closed by losing its last reference

    def find(self, data):
        """Where in data the packet begins, or None."""
        at = -1
        while self.left > 0:
            at = data.find(START, at + 1)
            if at < 0 or at + 256 > len(data):
                break
            self.left -= 1
            if not self.left:
                return at
        return None

    def done(self):
        print("tampered", flush=True)

    async def settle(self):
        """Returns when nothing has moved for a while."""
        before = -1
        while before != self.forwarded:
            before = self.forwarded
            await asyncio.sleep(QUIET_S)

    async def reset_one_resume_the_other(self):
        await self.settle()
        self.stalled[0].transport.abort()  # unread data is there: a reset
        self.done()
        await asyncio.sleep(QUIET_S)
        self.resume.set()


def packet_size(header):
    return 44 + int.from_bytes(header[12:16], "big") + int.from_bytes(header[16:18], "big")


async def discard(reader):
    while await reader.read(1 << 18):
        pass


async def to_destination(tamper, reader, back, writer):
    """Forwards; `back` is this connection's writer to the source."""
    while data := await reader.read(1 << 18):
        at = tamper.find(data)
        if at is None and tamper.what == "stall" and len(tamper.stalled) == 1 and START in data:
            tamper.stalled.append(back)
            tamper.kept.append(asyncio.ensure_future(tamper.reset_one_resume_the_other()))
            await tamper.resume.wait()
        elif at is not None and tamper.what == "stall":
            tamper.stalled.append(back)
            tamper.kept.append(writer)
            await asyncio.Event().wait()  # the other direction ends this connection
        elif at is not None and tamper.what == "cut":
            writer.write(data[:at + 200])
            tamper.done()
            return
        elif at is not None and tamper.what == "end":
            end = at + packet_size(data[at:])
            while len(data) < end and (more := await reader.read(1 << 18)):
                data += more
            writer.write(data[:end])
            writer.write_eof()
            tamper.done()
            return await discard(reader)
        elif at is not None and not tamper.what.startswith("greeting="):
            data = bytearray(data)
            if tamper.what.startswith("format="):
                data[at + FORMAT_VERSION] = int(tamper.what[7:])
            else:
                data[at + int(tamper.what)] ^= 0x10
            tamper.done()
        writer.write(data)
        tamper.forwarded += len(data)
        await writer.drain()


async def to_source(tamper, reader, writer):
    while data := await reader.read(1 << 18):
        if tamper.what.startswith("greeting=") and GREETING in data:
            changed = bytearray(GREETING)
            changed[GREETING_VERSION] = int(tamper.what[9:]).to_bytes(2, "big")
            data = data.replace(GREETING, changed)
            tamper.done()
        writer.write(data)
        await writer.drain()


async def closing(forward, writer):
    try:
        await forward
    except OSError:
        pass
    writer.close()


async def main(address, listen, target, nth, what):
    tamper = Tamper(int(nth), what)

    async def connection(reader, writer):
        out_reader, out_writer = await asyncio.open_connection(address, int(target))
        await asyncio.gather(closing(to_destination(tamper, reader, writer, out_writer), out_writer),
                             closing(to_source(tamper, out_reader, writer), writer))

    sock = socket.create_server((address, int(listen)))
    if what == "stall":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that it is felt soon
    server = await asyncio.start_server(connection, sock=sock)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
