# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The RAM oracle: is the memory of a stopped source and of its destination,
which has not run yet, the same, in every RAMBlock (invariant 1).  And what the
gang's pages are, to compare the bytes on the wire with."""

import hashlib
import re
from dataclasses import dataclass

PAGE = 4096
CHUNK = 1 << 20


class RAMDiffers(AssertionError):
    """The first byte that differs, and where."""


def blocks(vm):
    """name -> (host address, used length) of every RAMBlock."""
    found = {}
    for line in vm.qmp.hmp("info ramblock").splitlines():
        m = re.match(r"\s*(\S.*?)\s+\d+ \w+\s+0x\w+\s+0x(\w+)\s+0x\w+\s+0x(\w+)", line)
        if m:
            found[m[1]] = (int(m[3], 16), int(m[2], 16))
    if not found:
        raise RuntimeError("info ramblock shows no block")
    return found


def chunks(vm, block):
    """The memory of one (address, length), a chunk at a time."""
    address, length = block
    with open(f"/proc/{vm.process.pid}/mem", "rb", buffering=0) as mem:
        mem.seek(address)
        while length:
            data = mem.read(min(CHUNK, length))
            if not data:
                raise RuntimeError("guest memory cannot be read")
            length -= len(data)
            yield data


def _without(a, b, may_differ):
    """b with the pages of a where it may differ."""
    b = bytearray(b)
    for i in range(0, len(a), PAGE):
        page = slice(i, i + PAGE)
        if a[page] != b[page] and may_differ(i, a[page], bytes(b[page])):
            b[page] = a[page]
    return b


def check_identical(source, destination, may_differ=None):
    """Raises RAMDiffers unless all RAM is the same; the bytes compared.  may_differ:
    called with block, offset and both contents of a page that is not; true if it need not be."""
    for vm in (source, destination):
        if vm.run_state() == "running":
            raise RuntimeError(f"{vm.name} runs: its RAM cannot be compared")
    here, there = blocks(source), blocks(destination)
    if here.keys() != there.keys():
        raise RAMDiffers(f"{source.name}: RAM blocks differ: {set(here) ^ set(there)}")
    compared = 0
    for name, block in here.items():
        if block[1] != there[name][1]:
            raise RAMDiffers(f"{source.name}: {name} has another length")
        offset = 0
        for a, b in zip(chunks(source, block), chunks(destination, there[name])):
            if a != b and may_differ:
                b = _without(a, b, lambda i, x, y: may_differ(name, offset + i, x, y))
            if a != b:
                at = next(i for i in range(len(a)) if a[i] != b[i])
                pages = sum(a[i:i + PAGE] != b[i:i + PAGE] for i in range(0, len(a), PAGE))
                raise RAMDiffers(
                    f"{source.name}: {name} differs first at offset {offset + at:#x}"
                    f" ({a[at]:#x} at the source, {b[at]:#x} at the destination);"
                    f" {pages} pages of this MiB differ")
            offset += len(a)
        compared += offset
    return compared


@dataclass
class Pages:
    total: int = 0
    nonzero: int = 0
    distinct: int = 0


def count_pages(vms):
    """The pages of a gang of stopped guests: how many hold something, and how
    many different ones there are."""
    zero, seen, count = bytes(PAGE), set(), Pages()
    for vm in vms:
        for block in blocks(vm).values():
            for data in chunks(vm, block):
                count.total += len(data) // PAGE
                for i in range(0, len(data), PAGE):
                    page = data[i:i + PAGE]
                    if page != zero:
                        count.nonzero += 1
                        seen.add(hashlib.blake2b(page, digest_size=16).digest())
    count.distinct = len(seen)
    return count
