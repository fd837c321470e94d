# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Gangs over TLS, and what crosses the network.  QEMU's migration channels are all
of it, and with TLS none of the guests' memory can be read there."""

import os

import pytest

from ganglib import gang, tls
from ganglib.capture import Capture

# In each guest's memory some times over, by its kernel, for example in /proc/cmdline.
MARKER = "gang.workload=idle gang.id="
NAME_A, NAME_B = "host-a", "host-b"


@pytest.fixture
def authority(bed):
    """Certificates of both hosts: the directory of each."""
    tls.authority(bed.rundir)
    found = []
    for name in (NAME_A, NAME_B):
        directory = os.path.join(bed.rundir, name)
        os.mkdir(directory)
        os.link(f"{bed.rundir}/ca-cert.pem", f"{directory}/ca-cert.pem")
        for role in ("server", "client"):
            tls.certificate(bed.rundir, directory, role, name, os.getuid())
        found.append(directory)
    return found


def x509(authority, allow):
    def before(source, destination):
        tls.use_x509(source, authority[0], "client", hostname=NAME_B)
        tls.use_x509(destination, authority[1], "server", allow=allow)
    return before


def psk(bed):
    for name in ("right", "wrong"):
        os.mkdir(os.path.join(bed.rundir, name))
        tls.key(os.path.join(bed.rundir, name))

    def before(source, destination):
        tls.use_psk(source, os.path.join(bed.rundir, "right"), "client")
        tls.use_psk(destination, os.path.join(bed.rundir, "right"), "server")
    return before


def captured(bed, gangds, before=None, **kw):
    """A gang of two moves; what was seen on the link."""
    sources = bed.guests(2)
    members = bed.prepare(sources, gangds, before=before, **kw)
    capture = Capture(bed.rundir, bed.hosts.a, MARKER, [m.port for m in members])
    bed.closers.append(capture.close)
    result = bed.migrate(members, gangds)
    assert sum(source.cmd("query-gang")["referenced-pages"] for source in sources) > 0
    gang.run_at_destination(members)
    seen = capture.result()
    assert seen["lost"] == 0
    # Or it has not looked where the gang went.
    assert seen["bytes"] > 0.8 * result.wire_bytes
    assert seen["other"] == {}
    return seen


def test_only_migration_channels_cross_the_network_and_the_capture_sees_memory(bed):
    """Without TLS and compression.  This is also the proof that the two below can fail."""
    assert captured(bed, bed.gangds(), compression="none", dedup="page")["markers"] > 0


def test_a_gang_over_mutual_tls_shows_nothing_of_its_memory(bed, authority):
    seen = captured(bed, bed.gangds(), x509(authority, allow=f"CN={NAME_A}"),
                    compression="none", dedup="page")
    assert seen["markers"] == 0


@pytest.mark.long
def test_a_gang_over_tls_with_a_shared_key_shows_nothing_of_its_memory(bed):
    seen = captured(bed, bed.gangds(), psk(bed), compression="none", dedup="page")
    assert seen["markers"] == 0


def refused(bed, before):
    """The first member, which `before` spoils, stays; the others move."""
    gangds = bed.gangds("--barrier-timeout", "2")
    members = bed.prepare(bed.guests(2), gangds, before=before)
    gang.start(members, bed.hosts, gangds)
    gang.wait(members)
    victim, other = members
    assert victim.status == "failed", victim.info
    assert victim.source.run_state() == "running"
    victim.source.wait_beats(2)
    assert victim.destination.run_state() != "running"
    gang.check([other])
    gang.run_at_destination([other])


def test_inv6_a_wrong_client_identity_is_refused(bed, authority):
    """A certificate of the right authority, but of a host that may not come in."""
    right, wrong = x509(authority, f"CN={NAME_A}"), x509(authority, "CN=another host")
    refused(bed, lambda s, d: (wrong if s.name == "vm0" else right)(s, d))


@pytest.mark.long
def test_inv6_a_wrong_server_identity_is_refused(bed, authority):
    right = x509(authority, f"CN={NAME_A}")

    def before(source, destination):
        right(source, destination)
        if source.name == "vm0":
            source.qmp.parameters(tls_hostname="host-c")
    refused(bed, before)


@pytest.mark.long
def test_inv6_a_certificate_of_another_authority_is_refused(bed, authority):
    right = x509(authority, f"CN={NAME_A}")
    other = os.path.join(bed.rundir, "other")
    os.mkdir(other)
    tls.authority(other)
    tls.certificate(other, other, "client", NAME_A, os.getuid())
    # It trusts the destination's authority, too, but shows what that one did not sign.
    with open(f"{bed.rundir}/ca-cert.pem") as real, open(f"{other}/ca-cert.pem", "a") as file:
        file.write(real.read())

    def before(source, destination):
        if source.name == "vm0":
            tls.use_x509(source, other, "client", hostname=NAME_B)
            tls.use_x509(destination, authority[1], "server", allow=f"CN={NAME_A}")
        else:
            right(source, destination)
    refused(bed, before)


@pytest.mark.long
def test_inv6_a_wrong_key_is_refused(bed):
    right = psk(bed)

    def before(source, destination):
        if source.name == "vm0":
            tls.use_psk(source, os.path.join(bed.rundir, "wrong"), "client")
            tls.use_psk(destination, os.path.join(bed.rundir, "right"), "server")
        else:
            right(source, destination)
    refused(bed, before)


@pytest.mark.long
def test_a_source_without_tls_is_refused(bed, authority):
    """And it shows nothing to a destination that wants TLS."""
    right = x509(authority, f"CN={NAME_A}")

    def before(source, destination):
        right(source, destination)
        if source.name == "vm0":
            source.qmp.parameters(tls_creds="")
    refused(bed, before)
