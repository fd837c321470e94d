# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""One guest: boot, save, restore, wait as a destination, heartbeat."""

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass

from .ram import single
from .process import BUILD, TOP, Process, product, wait_for
from .qmp import QMP

MACHINE = "pc-q35-10.0"  # one type for stock and fork, so that saved states fit both


def guest_dir():
    """The guest's kernel and image, made when they are not there."""
    global _guest
    if not _guest:
        _guest = subprocess.run([os.path.join(TOP, "tests/guest/build")], check=True,
                                stdout=subprocess.PIPE, text=True).stdout.strip()
    return _guest


_guest = None


@dataclass(frozen=True)
class Spec:
    """What a guest is; equal specs have the same saved state."""
    index: int = 0
    memory_mb: int = 256
    workload: str = "idle"
    rate: int = 0  # 0: the workload's own
    beat_ms: int = 1000
    pulse_ms: int = 0  # 0: no pulse on the debug port
    net: str = ""  # ADDRESS/BITS of a network card; "": it has none

    @property
    def name(self):
        return f"vm{self.index}"

    def cmdline(self):
        text = (f"console=ttyS0 quiet gang.workload={self.workload} gang.id={self.index}"
                f" gang.beat_ms={self.beat_ms}")
        text += f" gang.rate={self.rate}" if self.rate else ""
        text += f" gang.pulse_ms={self.pulse_ms}" if self.pulse_ms else ""
        return text + (f" gang.net={self.net}" if self.net else "")


class VM:
    """A QEMU with one guest.  incoming: wait for a migration; hold: and do not
    run the guest when it has come, so that the oracle can look.  memory: the
    arguments that make its RAM, by default one memfd; append: to its kernel's."""

    def __init__(self, spec, rundir, host=None, qemu=None, incoming=False, label="", extra=(),
                 hold=True, memory=None, append=""):
        self.spec, self.name = spec, spec.name
        self.rundir, self.host = rundir, host
        self.extra, self.memory, self.append = extra, memory, append
        stem = os.path.join(rundir, f"{spec.name}{label}-{host.letter if host else 'x'}")
        self.serial, self.qmp_path = stem + ".serial", stem + ".qmp"
        self.ctl_path = stem + ".ctl"  # a second monitor, for gangctl
        self.pulse_path = stem + ".pulse"  # where the guest's pulse can be heard
        guest = guest_dir()
        argv = [
            qemu or product("qemu-system-x86_64"), "-nodefaults", "-display", "none",
            "-L", "/usr/share/qemu", "-L", "/usr/share/seabios", "-name", self.name,
            "-accel", "tcg", "-smp", "1", "-m", str(spec.memory_mb),
            "-machine", f"{MACHINE},hpet=off",
            *(memory or single("memfd", spec.memory_mb, rundir)),
            "-kernel", f"{guest}/vmlinuz", "-initrd", f"{guest}/initrd",
            "-append", f"{spec.cmdline()} {append}".strip(),
            "-drive", f"if=none,id=root,file={guest}/root.img,format=raw,"
                      "readonly=on,file.locking=off",
            "-device", "virtio-blk-pci,drive=root,romfile=",
            "-serial", f"file:{self.serial}",
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            "-qmp", f"unix:{self.ctl_path},server=on,wait=off",
        ]
        if spec.pulse_ms:
            argv += ["-chardev", f"socket,id=pulse,path={self.pulse_path},server=on,wait=off",
                     "-device", "isa-debugcon,iobase=0xe9,chardev=pulse"]
        if spec.net:
            # A guest whose state is only saved has nobody to talk to.
            argv += ["-netdev", (f"tap,id=net,ifname=tap{spec.index},script=no,downscript=no"
                                 if host else "hubport,id=net,hubid=0"),
                     "-device", "virtio-net-pci,netdev=net,romfile=,"
                                f"mac=52:54:00:00:01:{spec.index:02x}"]
        if incoming:
            argv += ["-incoming", "defer"] + (["-S"] if hold else [])
        self.process = Process(argv + list(extra), stem + ".log", netns=host and host.netns)
        self.qmp = None
        try:
            wait_for(self._connect, 30, f"the monitor of {self.name}")
        except BaseException:
            self.close()
            raise

    def _connect(self):
        if not self.process.alive():
            raise RuntimeError(f"QEMU of {self.name} ended: {self.process.output()}")
        try:
            self.qmp = QMP(self.qmp_path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def cmd(self, name, **arguments):
        return self.qmp.cmd(name, **arguments)

    # What the guest says

    def serial_lines(self):
        try:
            with open(self.serial, errors="replace") as f:
                text = f.read()
        except FileNotFoundError:
            return []
        # A last line that is not whole yet does not count.
        return re.findall(r"GANG (?:READY|BEAT|FAILED|AOF) .*(?=\n)", text)

    def beats(self):
        """The heartbeats that this QEMU has shown, as dictionaries."""
        return [{k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", line)}
                for line in self.serial_lines() if line.startswith("GANG BEAT")]

    def check_guest(self):
        failed = [line for line in self.serial_lines() if "FAILED" in line]
        errors = [beat for beat in self.beats() if beat["errors"]]
        if failed or errors:
            raise AssertionError(f"the guest of {self.name} found damage: {(failed + errors)[0]}")

    def wait_beats(self, count=2, timeout=60):
        """Waits until the guest has shown so many heartbeats more than now."""
        want = len(self.beats()) + count
        wait_for(lambda: len(self.beats()) >= want, timeout,
                 lambda: f"heartbeat {want} of {self.name}, has {self.serial_lines()[-2:]}")
        self.check_guest()

    def wait_ready(self, timeout=240):
        def ready():
            lines = self.serial_lines()
            if any("FAILED" in line for line in lines):
                raise RuntimeError(f"guest of {self.name}: {lines}")
            return any("READY" in line for line in lines)
        wait_for(ready, timeout, f"{self.name} to boot", poll=0.2)

    # Migration

    def status(self):
        return self.cmd("query-migrate").get("status", "none")

    def wait_migration(self, timeout=300, want="completed"):
        def ended():
            now = self.status()
            return now if now in ("completed", "failed", "cancelled") else None
        got = wait_for(ended, timeout, lambda: f"{self.name}: {self.cmd('query-migrate')}")
        if want and got != want:
            raise RuntimeError(f"migration of {self.name} {got}: {self.cmd('query-migrate')}"
                               f" {self.process.output()[-2000:]}")
        return got

    def run_state(self):
        return self.cmd("query-status")["status"]

    def save(self, path):
        """The stopped guest's state into a file, in mapped-ram format."""
        self.cmd("stop")
        self.qmp.capabilities(mapped_ram=True)
        self.qmp.parameters(max_bandwidth=1 << 40)
        self.cmd("migrate", uri=f"file:{path}")
        self.wait_migration()

    def load(self, path):
        self.qmp.capabilities(mapped_ram=True)
        self.cmd("migrate-incoming", uri=f"file:{path}")
        self.wait_migration()
        self.qmp.capabilities(mapped_ram=False)

    def close(self):
        if self.qmp:
            self.qmp.close()
            self.qmp = None
        self.process.kill()
        self.process.end()


def state_file(spec):
    """A saved state of the guest, some seconds after READY; made once."""
    key = hashlib.sha256(f"{guest_dir()} {spec} {MACHINE}".encode()).hexdigest()[:16]
    states = os.path.join(BUILD, "guest/states")
    folder = os.path.join(states, os.path.basename(guest_dir()))
    path = os.path.join(folder, f"{spec.workload}-{spec.memory_mb}-{spec.index}-{key}")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        for other in os.listdir(states):  # of guests that are no more
            if other != os.path.basename(folder):
                subprocess.run(["rm", "-rf", os.path.join(states, other)], check=True)
        temporary = f"{path}.{os.getpid()}"
        run = temporary + ".run"
        os.makedirs(run)
        vm = VM(spec, run, qemu=product("qemu-system-x86_64-stock"))
        try:
            vm.wait_ready()
            vm.wait_beats(2)
            vm.save(temporary)
            os.rename(temporary, path)
        finally:
            vm.close()
            subprocess.run(["rm", "-rf", run, temporary], check=True)
    return path


def restore(spec, rundir, host, qemu=None, label="", run=True, extra=(), memory=None):
    """A running guest that goes on from the saved state."""
    path = state_file(spec)
    vm = VM(spec, rundir, host, qemu, incoming=True, label=label, extra=extra, memory=memory)
    try:
        vm.load(path)
        if run:
            vm.cmd("cont")
    except BaseException:
        vm.close()
        raise
    return vm
