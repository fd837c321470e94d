// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The two processes that migrate one simulated VM: precopy rounds, deferring,
// stall watch and late acknowledgements as QEMU does them, over one socket.
//
//   source       -> destination   frame: size and channel, then the packet
//   destination  -> source        acknowledgements as on the return path

#ifndef GANG_PROCESS_MIGRATION_H
#define GANG_PROCESS_MIGRATION_H

#include "guest.h"

namespace gang::process {

inline constexpr uint32_t kChannels = 2;

// How a process ended by its own will.
enum Exit : int {
    kExitDone = 0,     // source: migrated; destination: the stream ended
    kExitPeerGone = 2, // source: its destination is no more
    kExitError = 3,    // something that must never happen; see Vm::error
};

// Both are to be called in a process of their own, as shared memory does not
// pass a fork; `socket` is this end of a socket pair.  They return an Exit.
int RunSource(Vm *vm, int directory_fd, uint32_t member, int socket, uint64_t seed);
int RunDestination(Vm *vm, int store_fd, int socket, uint64_t seed);

} // namespace gang::process

#endif
