# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""One host: its own /run, /etc/libvirt, /var/lib/libvirt, name, and UUID, a
libvirtd and a gangd."""

import json
import os
import shutil
import signal
import subprocess
import sys

from ganglib import tls
from ganglib.process import BUILD, Process, product, wait_for

LIBVIRT = os.environ.get("GANG_LIBVIRT_BUILD", os.path.join(BUILD, "src/libvirt/build"))
LIBVIRTD = os.path.join(LIBVIRT, "src/libvirtd")
VIRSH = os.path.join(LIBVIRT, "tools/virsh")
HOSTINIT = os.path.join(os.path.dirname(__file__), "hostinit.py")

# Where libvirt keeps things, and our directory for it.
DIRECTORIES = {
    "run": "/run",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
QEMU_UID = 64055  # Debian's number for libvirt-qemu

LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
log_filters = "{filters}"
"""
QEMU_CONF = """\
user = "+{uid}"
group = "+{uid}"
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
migration_address = "0.0.0.0"
migrate_tls_x509_cert_dir = "/etc/libvirt/migration-tls"
migrate_tls_x509_verify = 1
"""


class VirshError(Exception):
    """virsh said no."""

    def __init__(self, argv, done):
        super().__init__(f"virsh {' '.join(argv)}: {done.stdout}{done.stderr}")
        self.stderr = done.stderr


def qemu_uid():
    """That user, if it can get to what we built; else root."""
    path = os.path.realpath(product("qemu-system-x86_64"))
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return 0
        path = os.path.dirname(path)
    return QEMU_UID


class Host:
    """net: the ganglib.net.Host this is in; all: names to addresses of both."""

    def __init__(self, net, rundir, all_hosts, gangd_options=()):
        self.letter, self.address = net.letter, net.address
        self.name = f"host-{net.letter}"
        self.uri = f"qemu+tcp://{self.name}/system"
        self.directory = os.path.join(rundir, self.name)
        self.gangd_options = gangd_options
        self.uid = qemu_uid()
        self.pids, self.spawned = {}, 0
        self._prepare(all_hosts)
        binds = [f"{ours}:{theirs}" for ours, theirs in DIRECTORIES.items()]
        binds += ["hosts:/etc/hosts", f"{self._guest()}/root.img:/var/lib/libvirt/guest/root.img"]
        self.init = subprocess.Popen(
            ["ip", "netns", "exec", net.netns, sys.executable, HOSTINIT, self.directory, self.name,
             *binds],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=open(os.path.join(self.directory, "init.log"), "ab"))
        self.pid = json.loads(self.init.stdout.readline())["pid"]

    @staticmethod
    def _guest():
        from ganglib.vm import guest_dir
        return guest_dir()

    def _prepare(self, all_hosts):
        for ours, theirs in DIRECTORIES.items():
            os.makedirs(os.path.join(self.directory, ours))
            os.makedirs(theirs, exist_ok=True)  # to mount on; empty, and the only trace
        guest = os.path.join(self.directory, "lib/guest")
        os.makedirs(guest)
        for name in ("vmlinuz", "initrd"):  # libvirt changes their owner
            shutil.copy(os.path.join(self._guest(), name), guest)
        open(os.path.join(guest, "root.img"), "w").close()
        serial = os.path.join(self.directory, "log/guest")
        os.makedirs(serial)
        os.chown(serial, self.uid, self.uid)
        os.makedirs(os.path.join(self.directory, "run/gang"))
        self.write("hosts", "127.0.0.1 localhost\n" +
                   "".join(f"{address} {name}\n" for name, address in all_hosts.items()))
        self.write("etc/libvirtd.conf", LIBVIRTD_CONF.format(
            uuid=f"6f6e6500-0000-4000-8000-{ord(self.letter):012x}",
            filters=os.environ.get("GANG_LIBVIRT_LOG", "")))
        self.write("etc/qemu.conf", QEMU_CONF.format(uid=self.uid))
        certificates = self.path("etc/migration-tls")
        os.makedirs(certificates)
        authority = os.path.dirname(self.directory)
        shutil.copy(os.path.join(authority, "ca-cert.pem"), certificates)
        for role in ("server", "client"):
            tls.certificate(authority, certificates, role, self.name, self.uid)

    def path(self, name):
        """Of a file in this host's directory, from outside."""
        return os.path.join(self.directory, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)

    def read(self, name):
        try:
            with open(self.path(name), errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    # Processes

    def start(self, name, argv):
        request = {"argv": argv, "log": self.path(f"{name}.log")}
        self.init.stdin.write(json.dumps(request).encode() + b"\n")
        self.init.stdin.flush()
        self.pids[name] = json.loads(self.init.stdout.readline())["pid"]

    def alive(self, name):
        return os.path.exists(f"/proc/{self.pids[name]}")

    def stop(self, name, sig=signal.SIGTERM):
        pid = self.pids.pop(name, None)
        if pid is None or not os.path.exists(f"/proc/{pid}"):
            return
        os.kill(pid, sig)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 20, f"{name} of {self.name} to end")

    def start_gangd(self, *options):
        self.start("gangd", [product("gangd"), "--socket", "/run/gang/gangd.sock",
                             "--allow-user", str(self.uid), *(options or self.gangd_options)])
        wait_for(lambda: os.path.exists(self.path("run/gang/gangd.sock")) or
                 not self.alive("gangd"), 10, "gangd's socket")

    def start_libvirtd(self):
        self.start("libvirtd", [LIBVIRTD, "--listen"])

        def up():
            if not self.alive("libvirtd"):
                raise RuntimeError(f"libvirtd of {self.name} ended: {self.read('libvirtd.log')}"
                                   f" {self.read('log/libvirtd.log')[-3000:]}")
            return os.path.exists(self.path("run/libvirt/libvirt-sock")) and \
                self.virsh("uri", check=False).returncode == 0
        wait_for(up, 60, f"libvirtd of {self.name}")

    def inside(self, *argv):
        """The arguments that run a command in this host."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--net", "--", *argv]

    def virsh(self, *argv, check=True, timeout=120):
        done = subprocess.run(self.inside(VIRSH, "-q", *argv), capture_output=True, text=True,
                              timeout=timeout, stdin=subprocess.DEVNULL)
        if check and done.returncode:
            raise VirshError(argv, done)
        return done

    def spawn(self, *argv):
        """A command that goes on beside us, with a log of its own."""
        self.spawned += 1
        return Process(self.inside(*argv), self.path(f"spawned-{self.spawned}.log"))

    def domains(self):
        """name -> state of what runs here."""
        states = {}
        for name in self.virsh("list", "--name").stdout.split():
            state = self.virsh("domstate", name, check=False)
            if state.returncode == 0:  # else it has left since
                states[name] = state.stdout.strip()
        return states

    def close(self):
        self.init.stdin.close()
        try:
            self.init.wait(30)
        except subprocess.TimeoutExpired:
            self.init.kill()
            self.init.wait()
        self.init.stdout.close()
