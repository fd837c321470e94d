# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright the gang migration authors
"""Real guests on two hosts: what the integration tests and the demo share.

process   children that never outlive us
net       two hosts: network namespaces joined by a shaped link
lan       the guests' own network, with clients outside
client    one of them: writes to a guest's redis, and remembers what was acknowledged
fleet     guests with such clients, which move to and fro
faults    what goes wrong meanwhile
qmp       a QEMU's monitor
memory    what a guest's RAM may be made of
vm        one guest: boot, save, restore, destination, heartbeat
oracle    is the RAM of two guests the same; what pages does a gang have
tls       certificates and keys for encrypted migration
capture   what crosses the link
tamper    a forwarder that damages packets
gang      migrations of a gang, by stock QEMU or by ours, and their figures
"""
