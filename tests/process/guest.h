// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Simulated VMs in memory that all processes of a test share: RAM at the source,
// a dirty bitmap, RAM at the destination, and a guest that writes.

#ifndef GANG_PROCESS_GUEST_H
#define GANG_PROCESS_GUEST_H

#include <atomic>
#include <cstdint>

#include "layout.h"
#include "testing.h"

namespace gang::process {

inline constexpr size_t kVms = 8;
inline constexpr size_t kVmPages = 512;
inline constexpr size_t kDirtyWords = kVmPages / 64;
// Contents that guests write again and again, so that VMs have pages in common.
inline constexpr size_t kContents = 700;

enum class Cpu : uint32_t {
    kOff = 0,
    kRuns,
    kStopWanted, // by the source, before its last round
    kStopped,    // by the guest: it will not write any more
};

// One VM.  Only atomics and bytes: processes die at any instruction.
struct Vm {
    alignas(kPageSize) uint8_t source[kVmPages][kPageSize];
    alignas(kPageSize) uint8_t destination[kVmPages][kPageSize];
    std::atomic<uint64_t> dirty[kDirtyWords];
    std::atomic<Cpu> cpu;
    std::atomic<uint32_t> finish;    // no more rounds than needed, please
    std::atomic<uint32_t> completed; // the source is done, everything acknowledged
    char error[256];                 // why a process of this VM gave up
};

struct World {
    Vm vms[kVms];
    // 0 is the zero page; the guests replace the second half now and then.
    alignas(kPageSize) uint8_t contents[kContents][kPageSize];
    std::atomic<uint32_t> over;
};

// Anonymous shared memory, all contents written; lives as long as the process.
World *NewWorld();

// New RAM for a VM whose processes are all gone.
void Boot(World *world, Vm *vm, test::Rng &rng);

// The guests' CPUs, one process for all: writes whole pages and words until
// `world->over`.  A page is marked dirty after it was written, as a page that
// was read in between must come again.
void RunGuests(World *world, uint64_t seed);

} // namespace gang::process

#endif
