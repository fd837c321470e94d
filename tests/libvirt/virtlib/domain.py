# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""One domain: its XML, its guest's heartbeat, its RAM."""

import json
import os
import re
import shlex

from ganglib import vm
from ganglib.process import product, wait_for
from ganglib.qmp import QMP

CHUNK = 1 << 20
XML = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>6f6e6500-0000-4000-9000-{index:012x}</uuid>
  <memory unit='MiB'>{memory_mb}</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>/var/lib/libvirt/guest/vmlinuz</kernel>
    <initrd>/var/lib/libvirt/guest/initrd</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <clock offset='utc'><timer name='hpet' present='no'/></clock>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/guest/root.img'>
        <seclabel model='dac' relabel='no'/>
      </source>
      <target dev='vda' bus='virtio'/>
      <readonly/>
      <shareable/>
    </disk>
    <serial type='file'><source path='/var/log/libvirt/guest/{name}.serial'/></serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-L'/><qemu:arg value='/usr/share/qemu'/>
    <qemu:arg value='-L'/><qemu:arg value='/usr/share/seabios'/>
  </qemu:commandline>
</domain>
"""


class RAMDiffers(AssertionError):
    """The first byte that differs, and where."""


class RAM:
    """The memory of a domain's QEMU.  It stays when that QEMU ends, which is
    what libvirt does to a source as soon as its domain has arrived."""

    def __init__(self, name, pid):
        self.name = name
        folder = f"/proc/{pid}/fd"
        found = [fd for fd in os.listdir(folder)
                 if os.readlink(f"{folder}/{fd}").startswith("/memfd:memory-backend-memfd")]
        if len(found) != 1:
            raise RuntimeError(f"{name}: {len(found)} memory backends")
        self.fd = os.open(f"{folder}/{found[0]}", os.O_RDONLY)
        self.size = os.fstat(self.fd).st_size

    def check_identical(self, other):
        if self.size != other.size:
            raise RAMDiffers(f"{self.name}: {self.size} and {other.size} bytes")
        for at in range(0, self.size, CHUNK):
            a, b = os.pread(self.fd, CHUNK, at), os.pread(other.fd, CHUNK, at)
            if a != b:
                offset = next(i for i in range(len(a)) if a[i] != b[i])
                raise RAMDiffers(f"{self.name}: RAM differs first at {at + offset:#x}")

    def flip_a_bit(self, at):
        """So that the test of the oracle has something to find."""
        with open(f"/proc/self/fd/{self.fd}", "r+b", buffering=0) as f:
            byte = os.pread(self.fd, 1, at)
            f.seek(at)
            f.write(bytes([byte[0] ^ 1]))

    def close(self):
        os.close(self.fd)


class Domain:
    """A guest that libvirt manages; host says where it runs."""

    def __init__(self, spec, emulator=None):
        self.spec, self.name = spec, spec.name
        self.emulator = emulator or product("qemu-system-x86_64")
        self.host = None

    def xml(self):
        return XML.format(name=self.name, index=self.spec.index, memory_mb=self.spec.memory_mb,
                          machine=vm.MACHINE, cmdline=self.spec.cmdline(), emulator=self.emulator)

    def start(self, host):
        host.write(f"{self.name}.xml", self.xml())
        host.virsh("create", host.path(f"{self.name}.xml"))
        self.host = host

    def define(self):
        """Makes it persistent where it runs."""
        self.host.write(f"{self.name}.xml", self.xml())
        self.host.virsh("define", self.host.path(f"{self.name}.xml"))

    def pid(self):
        return int(self.host.read(f"run/libvirt/qemu/{self.name}.pid"))

    def ram(self):
        return RAM(self.name, self.pid())

    def monitor(self, command, **arguments):
        """Asks QEMU itself, through libvirt."""
        request = {"execute": command}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        reply = json.loads(self.host.virsh("qemu-monitor-command", self.name,
                                           json.dumps(request)).stdout)
        if "error" in reply:
            raise RuntimeError(f"{self.name}: {command}: {reply['error']}")
        return reply["return"]

    def start_plain_destination(self, host):
        """What libvirt would start, without libvirt: a QEMU that waits for this
        domain on the other host; its monitor."""
        host.write(f"{self.name}.xml", self.xml())
        argv = shlex.split(host.virsh("domxml-to-native", "qemu-argv", "--xml",
                                      host.path(f"{self.name}.xml")).stdout)
        argv = argv[argv.index(self.emulator):] + ["-"]
        command = [self.emulator]
        for option, value in zip(argv[1:], argv[2:]):
            if not option.startswith("-") or "masterKey" in value:
                continue
            if "id=charmonitor," in value:
                value = f"socket,id=charmonitor,path=/run/{self.name}.qmp,server=on,wait=off"
            command += [option] if value.startswith("-") else [option, value]
        host.start(f"plain-{self.name}", command + ["-incoming", "defer"])

        def connect():
            if not host.alive(f"plain-{self.name}"):
                raise RuntimeError(host.read(f"plain-{self.name}.log"))
            try:
                return QMP(host.path(f"run/{self.name}.qmp"))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
        return wait_for(connect, 30, f"the monitor of {self.name}")

    def state(self):
        return self.host.virsh("domstate", self.name).stdout.strip()

    # What the guest says; libvirt starts the file anew at each host.

    def serial_lines(self):
        text = self.host.read(f"log/guest/{self.name}.serial")
        return re.findall(r"GANG (?:READY|BEAT|FAILED) .*(?=\n)", text)

    def beats(self):
        return [{k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", line)}
                for line in self.serial_lines() if line.startswith("GANG BEAT")]

    def check_guest(self):
        failed = [line for line in self.serial_lines() if "FAILED" in line]
        errors = [beat for beat in self.beats() if beat["errors"]]
        if failed or errors:
            raise AssertionError(f"the guest of {self.name} found damage: {(failed + errors)[0]}")

    def wait_beats(self, count=2, timeout=60):
        want = len(self.beats()) + count
        wait_for(lambda: len(self.beats()) >= want, timeout,
                 lambda: f"heartbeat {want} of {self.name}, has {self.serial_lines()[-2:]}")
        self.check_guest()

    def wait_ready(self, timeout=240):
        wait_for(lambda: any("READY" in line for line in self.serial_lines()), timeout,
                 f"{self.name} to boot", poll=0.2)
        self.check_guest()
