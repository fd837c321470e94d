# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Encrypted migration: an authority, and a server and a client certificate for
each host, or a key that both ends know; and QEMU's objects for them."""

import os
import secrets
import subprocess

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def _openssl(*argv):
    subprocess.run(["openssl", *argv], check=True, capture_output=True)


def authority(directory):
    """ca-cert.pem and ca-key.pem"""
    _openssl("req", "-x509", *KEY, "-subj", "/CN=test authority",
             "-addext", "keyUsage=critical,keyCertSign",
             "-keyout", f"{directory}/ca-key.pem", "-out", f"{directory}/ca-cert.pem")


def certificate(ca, directory, role, name, uid):
    """ROLE-cert.pem and ROLE-key.pem, for a host name"""
    request, extensions = f"{directory}/{role}.csr", f"{directory}/{role}.ext"
    with open(extensions, "w") as f:
        f.write(f"subjectAltName=DNS:{name}\nbasicConstraints=critical,CA:FALSE\n"
                f"keyUsage=critical,digitalSignature,keyEncipherment\n"
                f"extendedKeyUsage={role}Auth\n")
    _openssl("req", *KEY, "-subj", f"/CN={name}",
             "-keyout", f"{directory}/{role}-key.pem", "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", f"{ca}/ca-cert.pem",
             "-CAkey", f"{ca}/ca-key.pem", "-CAcreateserial", "-days", "2",
             "-extfile", extensions, "-out", f"{directory}/{role}-cert.pem")
    os.chown(f"{directory}/{role}-key.pem", uid, uid)
    os.unlink(request)
    os.unlink(extensions)


def key(directory, user="qemu"):
    """keys.psk, with a new key of one user"""
    with open(f"{directory}/keys.psk", "w") as f:
        f.write(f"{user}:{secrets.token_hex(32)}\n")


def use_x509(vm, directory, endpoint, hostname=None, allow=None):
    """Mutual: either end shows a certificate of the authority.  hostname: of the
    peer, for the source; allow: the one name that the destination lets in."""
    vm.cmd("object-add", qom_type="tls-creds-x509", id="tls", endpoint=endpoint,
           dir=directory, verify_peer=True)
    vm.qmp.parameters(tls_creds="tls")
    if hostname:
        vm.qmp.parameters(tls_hostname=hostname)
    if allow:
        vm.cmd("object-add", qom_type="authz-simple", id="authz", identity=allow)
        vm.qmp.parameters(tls_authz="authz")


def use_psk(vm, directory, endpoint, user="qemu"):
    extra = {"username": user} if endpoint == "client" else {}
    vm.cmd("object-add", qom_type="tls-creds-psk", id="tls", endpoint=endpoint, dir=directory,
           **extra)
    vm.qmp.parameters(tls_creds="tls")
