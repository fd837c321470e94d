// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What gangd gives up once it is set up: it then needs its sockets and memory,
// and nothing else.

#ifndef GANGD_SANDBOX_H
#define GANGD_SANDBOX_H

#include "status.h"

namespace gangd {

// Whether this build may have a filter: sanitizers make system calls of their own.
bool SandboxPossible();

// For all threads of the process, for good: no new privileges; no core dump and
// no ptrace but by root; and a list of the system calls that may be made.  What
// is not in it is answered with ENOSYS, so that a newer C library falls back to
// what it knows; what only an intruder would want (a program, a file, a socket,
// another process) ends gangd.  The members of a gang do without it.
//
// kUnavailable: this kernel has no filters.
gang::Status EnterSandbox();

} // namespace gangd

#endif
