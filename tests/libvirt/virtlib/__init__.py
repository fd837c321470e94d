# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Two libvirt hosts on one machine: what the libvirt tests and the demo share.

hostinit  the first process of a host: its file systems, its children
host      one host: libvirtd, gangd, virsh
domain    one domain: XML, heartbeat, RAM
rig       both hosts and the domains on them
demo      scripts/demo --libvirt
"""
