# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""The modes, as settings of both QEMUs."""

from dataclasses import dataclass

from ganglib import gang
from ganglib.process import product
from ganglib.qmp import QMPError

CHANNELS = 2  # of multifd, with stock and gang alike
NO_CAP = 1 << 40  # bytes a second: the link decides, not max-bandwidth


@dataclass(frozen=True)
class Mode:
    """compression, dedup: of gang modes; None with stock QEMU."""
    multifd: str = None  # multifd-compression; None: no multifd
    xbzrle: bool = False
    compression: str = None
    dedup: str = None

    @property
    def is_gang(self):
        return self.compression is not None

    def qemu(self):
        return product("qemu-system-x86_64" if self.is_gang else "qemu-system-x86_64-stock")


MODES = {
    "stock-precopy": Mode(),
    "stock-multifd": Mode("none"),
    "stock-multifd-zstd": Mode("zstd"),
    "stock-xbzrle": Mode(xbzrle=True),
    "gang-page": Mode("gang", compression="none", dedup="page"),
    "gang-subpage": Mode("gang", compression="none", dedup="subpage"),
    "gang-delta": Mode("gang", compression="none", dedup="delta"),
    "gang-zstd": Mode("gang", compression="zstd", dedup="delta"),
    "gang-auto": Mode("gang", compression="auto", dedup="delta"),
}


def tune(vm, mode):
    """The settings on one end.  What this fork does not know yet is left out;
    returns the names of those."""
    vm.qmp.capabilities(return_path=True, multifd=mode.multifd is not None, xbzrle=mode.xbzrle)
    vm.qmp.parameters(max_bandwidth=NO_CAP)
    if mode.xbzrle:
        # More than the default of 64 MiB, so that it is not the cache that loses.
        vm.qmp.parameters(xbzrle_cache_size=256 << 20)
    if mode.multifd:
        vm.qmp.parameters(multifd_compression=mode.multifd, multifd_channels=CHANNELS)
    if not mode.is_gang:
        return []
    unknown = []
    try:
        vm.qmp.parameters(gang_compression=mode.compression)
    except QMPError:
        vm.qmp.parameters(gang_compression="zstd")
        unknown.append(f"gang-compression={mode.compression}")
    if "gang-dedup" in vm.cmd("query-migrate-parameters"):
        vm.qmp.parameters(gang_dedup=mode.dedup)
    else:
        unknown.append("gang-dedup")
    return unknown


def prepare(mode, sources, hosts, gangds, hold):
    """Destinations for the sources, listening, and the names of settings that
    this fork does not know."""
    members, unknown = [], []
    try:
        for source in sources:
            destination = gang.destination_of(source, hosts.b, mode.qemu(), hold=hold)
            member = gang.Member(source, destination, gang.PORT + source.spec.index)
            members.append(member)
            for vm in (source, destination):
                unknown = tune(vm, mode)
            uri = f"tcp:{hosts.b.address}:{member.port}"
            if gangds:
                destination.cmd("gang-migrate-incoming", uri=uri, gang_id="gang",
                                gang_socket=gangds[1].socket, exit_on_error=False)
            else:
                destination.cmd("migrate-incoming", uri=uri, exit_on_error=False)
    except BaseException:
        for member in members:
            member.destination.close()
        raise
    return members, unknown
