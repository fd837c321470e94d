# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A TCP forwarder that damages one gang packet on its way to the destination.

    python3 -m ganglib.tamper ADDRESS LISTEN_PORT TARGET_PORT NTH OFFSET

OFFSET is where in the NTH packet a bit is flipped (docs/wire-format.md has the
header's fields), or "cut": the connection is closed in the middle of it, or
"end": the connection is closed as soon as it is quiet after it.
Prints "tampered" when it is done."""

import asyncio
import sys

# multifd's magic and version, and the flags of a gang packet
START = bytes.fromhex("112233440000000100000006")


class Tamper:
    def __init__(self, nth, offset):
        self.left, self.offset, self.done = nth, offset, False
        self.ending = False

    def apply(self, data):
        """The bytes to forward, and whether to cut the connection there."""
        at = -1
        while not self.done:
            at = data.find(START, at + 1)
            if at < 0 or at + 256 > len(data):
                break
            self.left -= 1
            if self.left:
                continue
            self.done = True
            print("tampered", flush=True)
            if self.offset == "cut":
                return data[:at + 200], True
            if self.offset == "end":
                self.ending = True
                break
            data = bytearray(data)
            data[at + int(self.offset)] ^= 0x10
            return bytes(data), False
        return data, False


async def pump(reader, writer, tamper):
    ends = False  # this connection is the one to end
    try:
        while data := await asyncio.wait_for(reader.read(1 << 18), 0.01 if ends else None):
            cut = False
            if tamper:
                data, cut = tamper.apply(data)
                ends, tamper.ending = ends or tamper.ending, False
            writer.write(data)
            await writer.drain()
            if cut:
                break
    except (OSError, asyncio.TimeoutError):
        pass
    writer.close()


async def main(address, listen, target, nth, offset):
    tamper = Tamper(int(nth), offset)

    async def connection(reader, writer):
        out_reader, out_writer = await asyncio.open_connection(address, int(target))
        await asyncio.gather(pump(reader, out_writer, tamper), pump(out_reader, writer, None))

    server = await asyncio.start_server(connection, address, int(listen))
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
