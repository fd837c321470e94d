# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""A client outside a guest: writes to the redis in it, and keeps a record of
every write that was acknowledged.

    python3 -m ganglib.client write ADDRESS SEED RATE RECORD
    python3 -m ganglib.client verify ADDRESS SEED RECORD
    python3 -m ganglib.client lose ADDRESS SEED

write uses one TCP connection until SIGTERM; losing it is a failure.  Write N
appends an entry to a list, whose length redis answers: a write that is lost, or
done twice, shows in the answer to the next one.  It also replaces one of
some values, one of which is read back and compared.  RECORD gets a line with N
once both answers have come.

verify reads everything back, compares it with RECORD, has redis end and load
its append-only file, and compares again.  lose takes one write back, for a
test that both of them see it."""

import hashlib
import random
import signal
import socket
import sys
import time

PORT = 6379
VALUES = 400
ANSWER_S = 120  # a guest stands still when it moves, and the machine is shared


class Damage(Exception):
    """Redis does not have what it acknowledged."""


class Redis:
    """One connection."""

    def __init__(self, address):
        self.sock = socket.create_connection((address, PORT), timeout=ANSWER_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")

    def send(self, *commands):
        out = b""
        for command in commands:
            words = [str(word).encode() for word in command]
            out += b"*%d\r\n" % len(words)
            out += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.sock.sendall(out)

    def answer(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection is lost")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Damage(f"redis says {rest.decode()}")
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest.decode()

    def ask(self, *command):
        self.send(command)
        return self.answer()

    def close(self):
        self.file.close()
        self.sock.close()


def slot(n):
    return n * 7919 % VALUES


def entry(seed, n):
    return f"{n}:" + hashlib.blake2b(f"{seed} {n}".encode(), digest_size=6).hexdigest()


def value(seed, n):
    return f"{n}:" + random.Random(f"{seed} {n}").randbytes(400).hex()


def write(address, seed, rate, path):
    redis, ended = Redis(address), False

    def end(*_):
        nonlocal ended
        ended = True
    signal.signal(signal.SIGTERM, end)

    last = {}  # slot -> the write it has
    n, longest, chance = 0, 0.0, random.Random(seed)
    with open(path, "w", buffering=1) as record:
        while not ended:
            began = time.monotonic()
            redis.send(("RPUSH", "journal", entry(seed, n)),
                       ("SET", f"slot:{slot(n)}", value(seed, n)))
            length, done = redis.answer(), redis.answer()
            if length != n + 1 or done != "OK":
                raise Damage(f"write {n}: the list has {length} entries, {done}")
            record.write(f"{n}\n")
            last[slot(n)] = n
            where = chance.choice(list(last))
            got = redis.ask("GET", f"slot:{where}")
            if got != value(seed, last[where]):
                raise Damage(f"after write {n}: value {where} is {str(got)[:40]},"
                             f" should be of write {last[where]}")
            n += 1
            took = time.monotonic() - began
            longest = max(longest, took)
            time.sleep(max(0.0, 1 / rate - took))
    redis.close()
    print(f"{n} writes, longest wait {longest * 1000:.0f} ms", flush=True)


def compare(redis, seed, count):
    """Everything that redis has with what was acknowledged."""
    if (length := redis.ask("LLEN", "journal")) != count:
        raise Damage(f"{count} writes were acknowledged, the list has {length}")
    for first in range(0, count, 500):
        end = min(first + 500, count)
        got = redis.ask("LRANGE", "journal", first, end - 1)
        for n, found in zip(range(first, end), got, strict=True):
            if found != entry(seed, n):
                raise Damage(f"entry {n} is {found}")
    last = {slot(n): n for n in range(max(0, count - 2 * VALUES), count)}
    for where, n in last.items():
        if redis.ask("GET", f"slot:{where}") != value(seed, n):
            raise Damage(f"value {where} is not that of write {n}")


def reload(redis, address):
    """Has redis end, and connects to the one that begins with its file."""
    redis.send(("SHUTDOWN", "NOSAVE"))
    try:
        redis.file.read()  # until it is gone
    except ConnectionResetError:
        pass
    redis.close()
    end = time.monotonic() + ANSWER_S
    while True:
        try:
            again = Redis(address)
            if again.ask("PING") == "PONG":
                return again
        except (OSError, Damage):  # not there yet; loading
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def verify(address, seed, path):
    with open(path) as record:
        acknowledged = [int(line) for line in record]
    if acknowledged != list(range(len(acknowledged))):
        raise Damage("the record itself is not in order")
    redis = Redis(address)
    compare(redis, seed, len(acknowledged))
    redis = reload(redis, address)
    compare(redis, seed, len(acknowledged))
    print(f"all of {len(acknowledged)} writes are there", flush=True)


def main(what, address, seed, *arguments):
    if what == "write":
        rate, path = arguments
        write(address, int(seed), float(rate), path)
    elif what == "verify":
        verify(address, int(seed), *arguments)
    else:
        Redis(address).ask("RPOP", "journal")


if __name__ == "__main__":
    main(*sys.argv[1:])
