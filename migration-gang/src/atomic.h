// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The words of shared memory: std::atomic, by another name.  The interleaving
// tester (tests/interleave) compiles the same sources with a class of its own
// behind the name, which lets it stop a process before any access.

#ifndef GANG_ATOMIC_H
#define GANG_ATOMIC_H

#ifdef GANG_ATOMIC_HEADER
#include GANG_ATOMIC_HEADER
#else

#include <atomic>

namespace gang {

template <typename T> using Atomic = std::atomic<T>;

} // namespace gang

#endif
#endif
