# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""What the gang's memory could be sent in: gang_floor (tests/bench/floor.cc) over
dumps of the same saved guests that the runs restore."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile

from ganglib import oracle, vm
from ganglib.process import BUILD, product

FOLDER = os.path.join(BUILD, "bench")
FLOOR = "delta_zstd3_bytes"  # the one that targets are given for


def tool():
    """The program, or None where it is not built."""
    path = product("gang_floor")
    return path if os.access(path, os.X_OK) else None


def _cache(specs, entropy):
    """Where the answer is kept: it depends on the saved states and the program."""
    key = hashlib.sha256()
    with open(tool(), "rb") as f:
        key.update(f.read())
    for spec in specs:
        key.update(os.path.basename(vm.state_file(spec)).encode())
    kind = "entropy" if entropy else "floor"
    first = specs[0]
    return os.path.join(FOLDER, "floors", f"{first.workload}-{first.memory_mb}-{len(specs)}-{kind}-"
                                          f"{key.hexdigest()[:16]}.json")


def dump(spec, rundir, path):
    """All RAM of a guest just restored, as it is before it runs."""
    guest = vm.restore(spec, rundir, None, product("qemu-system-x86_64-stock"), "-dump",
                       run=False)
    try:
        with open(path, "wb") as out:
            for _, block in sorted(oracle.blocks(guest).items()):
                for data in oracle.chunks(guest, block):
                    if data.count(0) == len(data):
                        out.seek(len(data), os.SEEK_CUR)
                    else:
                        out.write(data)
            out.truncate(out.tell())
    finally:
        guest.close()


def floor(specs, entropy=False, say=print):
    """The program's figures for this gang, or None where it is not built."""
    if not tool():
        return None
    path = _cache(specs, entropy)
    if not os.path.exists(path):
        say(f"floor of {len(specs)} {specs[0].workload} guests of {specs[0].memory_mb} MiB"
            + (" (zstd -19 takes minutes)" if entropy else ""))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        rundir = tempfile.mkdtemp(prefix="gang-dump-")  # short: socket paths have a limit
        dumps = tempfile.mkdtemp(prefix="dump-", dir=FOLDER)
        try:
            files = []
            for spec in specs:
                files.append(os.path.join(dumps, spec.name))
                dump(spec, rundir, files[-1])
            argv = ["setpriv", "--pdeathsig", "KILL", tool()] + (["--entropy"] if entropy else []) + files
            answer = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
            json.loads(answer)
            with open(path + ".new", "w") as f:
                f.write(answer)
            os.rename(path + ".new", path)
        finally:
            shutil.rmtree(dumps, ignore_errors=True)
            shutil.rmtree(rundir, ignore_errors=True)
    with open(path) as f:
        return json.load(f)
