# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The demo with libvirt: virsh moves domains from host A to host B one by one,
all at the same time, and back as a gang.  Bytes are those of the link's
interface counter; RAM is compared at hand-over, so the domains arrive paused."""

import argparse
import subprocess
import sys
import time

from ganglib.memory import touch_memory, wanted_mib
from ganglib.process import wait_for

from .host import VIRSH
from .rig import Rig


def arguments():
    p = argparse.ArgumentParser(prog="scripts/demo --libvirt",
                                description=__doc__.split("\n\n", maxsplit=1)[0])
    p.add_argument("--vms", type=int, default=3, metavar="N", help="domains (3)")
    p.add_argument("--memory", type=int, default=256, metavar="MIB", help="of each domain (256)")
    p.add_argument("--link", type=int, default=1000, metavar="MBIT",
                   help="rate of the link between the hosts (1000; 0: not shaped)")
    p.add_argument("--workload", default="idle", choices=["idle", "redis", "web", "dirty"],
                   help="what the guests do (idle)")
    args = p.parse_args()
    if args.vms < 1 or args.memory < 128 or args.link < 0:
        p.error("at least 1 domain of 128 MiB, and a rate that is not negative")
    return args


def one_by_one(rig, domains):
    """What an administrator does today: a virsh for each."""
    here, there = rig.ways(domains)
    print(f"\n[{here.name}]# virsh migrate --live --parallel --suspend vmN {there.uri}"
          f"   # for each of {len(domains)}, at the same time", flush=True)
    running = [here.spawn(VIRSH, "-q", "migrate", "--live", "--parallel",
                          "--suspend", d.name, there.uri) for d in domains]
    for process in running:
        wait_for(lambda p=process: not p.alive(), 600, "virsh")
        if process.child.returncode:
            raise RuntimeError(process.output())
    rig.arrived(domains)


def as_a_gang(rig, domains):
    here, _ = rig.ways(domains)
    argv = rig.command(domains, "--verbose", gang="demo")
    print(f"\n[{here.name}]# virsh {' '.join(argv)}", flush=True)
    subprocess.run(here.inside(VIRSH, "-q", *argv), check=True, timeout=600,
                   stdin=subprocess.DEVNULL)
    rig.arrived(domains)


def measured(rig, domains, move):
    """Bytes and seconds of a move; the RAM is checked and the guests go on."""
    sources = [domain.ram() for domain in domains]
    touch_memory(wanted_mib(len(domains), domains[0].spec.memory_mb))
    before, t0 = rig.net.wire_bytes(), time.monotonic()
    move(rig, domains)
    figures = rig.net.wire_bytes() - before, time.monotonic() - t0
    rig.check_ram(domains, sources)
    for ram in sources:
        ram.close()
    rig.go_on(domains)
    return figures


def main():
    args = arguments()
    link = f"{args.link} Mbit/s" if args.link else "no limit"
    print(f"{args.vms} domains of {args.memory} MiB ({args.workload}), link: {link};"
          " starting libvirtd and gangd on both hosts, booting the domains", flush=True)
    rig = Rig()
    try:
        domains = rig.domains(args.vms, args.memory, args.workload)
        rig.net.shape(args.link)
        runs = [measured(rig, domains, move) for move in (one_by_one, as_a_gang)]
        alive = sum(domain.state() == "running" for domain in domains)
    finally:
        rig.close()
    print(f"\n{'':20} {'one by one':>14} {'as a gang':>14} {'ratio':>7}")
    for name, unit, factor, i in (("bytes on the wire", "MB", 1e-6, 0), ("total time", "s", 1, 1)):
        a, b = (run[i] * factor for run in runs)
        print(f"{name:20} {a:11.1f} {unit:2} {b:11.1f} {unit:2} {b / a:7.2f}")
    print(f"\nRAM of {args.vms} domains identical at hand-over, both times")
    print(f"{alive} of {args.vms} domains go on running")
    return 0 if alive == args.vms else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (AssertionError, RuntimeError, TimeoutError, OSError,
            subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
