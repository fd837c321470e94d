# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A hostile peer: stands between two real QEMUs, speaks their migration stream,
and at one point of it says something else.

    python3 -m ganglib.hostile ADDRESS LISTEN_PORT TARGET_PORT SIDE SEED

SIDE source: one of the gang packets to the destination is changed, in a way
chosen by SEED; most often its checksum fits, so that what is behind it is met.
SIDE destination: one of the messages of the return path (docs/wire-format.md) is.
Prints "hostile: WHAT" when it has done it."""

import asyncio
import ctypes
import random
import struct
import sys

INIT_SIZE = 64             # multifd's first message on a channel
PLAIN_SIZE = 320 + 8 * 128 # multifd's own packet (SYNC), for 128 pages
HEADER_SIZE = 44
MULTIFD_MAGIC = bytes.fromhex("11223344")
RP_GANG = 8
GREETING_SIZE = 56


class Xxh3:
    """XXH3-64 with the secret that both ends make of the greeting's seed."""

    def __init__(self, seed):
        self.lib = ctypes.CDLL("libxxhash.so.0")
        self.lib.XXH3_64bits_withSecret.restype = ctypes.c_uint64
        self.lib.XXH3_64bits_withSecret.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
        self.secret = ctypes.create_string_buffer(192)
        self.lib.XXH3_generateSecret(self.secret, ctypes.c_size_t(192), seed,
                                     ctypes.c_size_t(len(seed)))

    def __call__(self, data):
        return self.lib.XXH3_64bits_withSecret(bytes(data), len(data), self.secret, 192)

    def fix(self, packet):
        """Makes the packet's check fit what it now holds."""
        payload_size, metadata_size = struct.unpack_from(">IH", packet, 12)
        delta_size, = struct.unpack_from(">I", packet, 40)
        metadata = packet[HEADER_SIZE:HEADER_SIZE + metadata_size]
        payload = packet[HEADER_SIZE + metadata_size:][:payload_size]
        if packet[19] == 0:  # raw: only the delta is compressed
            payload = payload[max(len(payload) - delta_size, 0):]
        check = self(struct.pack("<QQ", self(metadata), self(payload))) & 0xffffffff
        struct.pack_into(">I", packet, 36, check)


class Hostile:
    def __init__(self, side, seed):
        self.side, self.random = side, random.Random(seed)
        # Early ones too, in which everything is new.
        self.left = self.random.choice((1, 2, 5, self.random.randint(1, 100)))
        if side == "destination":
            self.left -= 1  # 0: the greeting
        self.hash = None      # known once the destination has greeted
        self.before = []      # packets, to be said again

    def say(self, what):
        print(f"hostile: {what}", flush=True)

    # --- what a hostile source says

    def change(self, packet):
        """The bytes that go in the place of the packet, or None: the end."""
        r = self.random
        metadata_size = int.from_bytes(packet[16:18], "big")
        whole = len(packet)
        fix = r.random() < 0.75
        what = r.choice(("header", "metadata", "metadata", "payload", "sizes", "again", "other",
                         "cut", "noise", "pages", "grow"))
        if what == "header":
            at = r.choice((12, 14, 16, 18, 19, 20, 23, 24, 31, 32, 33, 34, 40, 43))
            packet[at] ^= 1 << r.randrange(8)
        elif what == "metadata":
            for _ in range(r.randint(1, 4)):
                packet[HEADER_SIZE + r.randrange(metadata_size)] = r.randrange(256)
        elif what == "payload" and whole > HEADER_SIZE + metadata_size:
            for _ in range(r.randint(1, 8)):
                packet[r.randrange(HEADER_SIZE + metadata_size, whole)] = r.randrange(256)
        elif what == "sizes":
            struct.pack_into(*r.choice(((">I", packet, 12, 0xffffffff), (">I", packet, 12, 0),
                                        (">H", packet, 16, 0xffff), (">H", packet, 16, 1),
                                        (">I", packet, 40, 0xffffffff))))
        elif what == "again" and self.before:
            packet = bytearray(r.choice(self.before))  # its slots are filled
            packet[20:24] = packet[20:24] if r.random() < 0.5 else b"\0\0\0\1"
        elif what == "other":
            packet[24:32] = r.randbytes(8)  # a digest of other pages
        elif what == "cut":
            self.say(f"{what} of {whole} bytes")
            return packet[:r.randrange(whole)], True
        elif what == "noise":
            packet[HEADER_SIZE:] = r.randbytes(whole - HEADER_SIZE)
        elif what == "pages":
            struct.pack_into(">H", packet, 32, r.choice((0, 1, 1024, 1025, 65535)))
        elif what == "grow":  # one more run, of a page or slot that may not exist
            run = bytes((r.randint(0, 15) | r.randint(0, 15) << 4,)) + r.randbytes(r.randint(1, 12))
            packet[HEADER_SIZE + metadata_size:HEADER_SIZE + metadata_size] = run
            struct.pack_into(">H", packet, 16, min(metadata_size + len(run), 0xffff))
        if fix:
            self.hash.fix(packet)
        self.say(f"{what} of {whole} bytes, check {'fits' if fix else 'as it was'}")
        return packet, False

    async def to_destination(self, reader, writer):
        start = await reader.readexactly(4)
        writer.write(start)
        if self.side != "source" or start != MULTIFD_MAGIC:
            return await copy(reader, writer)
        writer.write(await reader.readexactly(INIT_SIZE - 4))
        while True:
            packet = bytearray(await reader.readexactly(12))
            if (packet[11] & 0x3e) == 6:
                packet += await reader.readexactly(HEADER_SIZE - 12)
                payload_size, metadata_size = struct.unpack_from(">IH", packet, 12)
                packet += await reader.readexactly(metadata_size + payload_size)
                self.left -= 1
                if self.left == 0:
                    packet, end = self.change(packet)
                    writer.write(packet)
                    if end:
                        return
                    return await copy(reader, writer)
                self.before = self.before[-7:] + [bytes(packet)]
            else:
                packet += await reader.readexactly(PLAIN_SIZE - 12)
            writer.write(packet)
            await writer.drain()

    # --- what a hostile destination says

    def reply(self, message):
        """In the place of a greeting or an acknowledgement."""
        r = self.random
        body = bytearray(message[4:])
        greeting = len(body) == GREETING_SIZE
        choices = ["type", "length", "bytes", "twice", "noise", "nothing"]
        choices += (["version", "slots", "store", "seed", "early"] if greeting else
                    ["number", "number", "channel", "many"])
        what = r.choice(choices)
        self.say(f"{what} of a {'greeting' if greeting else 'acknowledgement'}")
        if what == "type":
            body[0:2] = struct.pack(">H", r.choice((0, 1, 2, 3, 0xffff)))
        elif what == "length":
            body = body + bytes(8) if r.random() < 0.5 else body[:r.randrange(len(body))]
        elif what == "bytes":
            for _ in range(r.randint(1, 4)):
                body[r.randrange(len(body))] ^= r.randint(1, 255)
        elif what == "noise":
            body = r.randbytes(r.choice((1, 8, 56, 512)))
        elif what == "version":
            body[2:4] = struct.pack(">H", r.choice((0, 2, 0xffff)))
        elif what == "slots":
            body[48:56] = struct.pack(">Q", r.choice((0, 1, 1 << 32, (1 << 64) - 1)))
        elif what == "store":
            body[16:32] = r.randbytes(16)
        elif what == "seed":
            body[32:48] = r.randbytes(16)
        elif what == "number":
            number, = struct.unpack_from(">I", body, 4)
            struct.pack_into(">I", body, 4, (number + r.choice((-1, 1, 2, 1 << 20))) % (1 << 32))
        elif what == "channel":
            body[2:4] = struct.pack(">H", r.choice((2, 63, 64, 0xffff)))
        said = struct.pack(">HH", RP_GANG, len(body)) + body
        if what == "nothing":
            return b""
        if what == "early":  # an acknowledgement of what was never sent
            said = struct.pack(">HHHHI", RP_GANG, 8, 2, 0, 1) + said
        return said * {"twice": 2, "many": 1000}.get(what, 1)

    async def to_source(self, reader, writer):
        while True:
            message = await reader.readexactly(4)
            kind, size = struct.unpack(">HH", message)
            message += await reader.readexactly(size)
            if kind == RP_GANG:
                if size == GREETING_SIZE:
                    self.hash = Xxh3(message[4 + 32:4 + 48])
                if self.side == "destination" and self.left == 0:
                    message = self.reply(message)
                self.left -= self.side == "destination"
            writer.write(message)
            await writer.drain()


async def copy(reader, writer):
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()


async def closing(forward, writer):
    try:
        await forward
    except (OSError, asyncio.IncompleteReadError):
        pass
    writer.close()


async def main(address, listen, target, side, seed):
    hostile = Hostile(side, seed)

    async def connection(reader, writer):
        out_reader, out_writer = await asyncio.open_connection(address, int(target))
        await asyncio.gather(closing(hostile.to_destination(reader, out_writer), out_writer),
                             closing(hostile.to_source(out_reader, writer), writer))

    server = await asyncio.start_server(connection, address, int(listen), limit=1 << 24)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
