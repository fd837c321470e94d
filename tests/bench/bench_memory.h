// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Guest memory for benchmarks: larger than any cache, and touched already, so
// that neither cache hits nor page faults are measured.

#ifndef GANG_BENCH_MEMORY_H
#define GANG_BENCH_MEMORY_H

#include <benchmark/benchmark.h>

#include "testing.h"

namespace gang::bench {

// Pages that a benchmark walks through: 256 MiB, or $GANG_BENCH_MIB.
size_t Pages();

// Pages() distinct pages of which half the bytes are random, as in memory that
// compresses to a half.  One for the process.
const test::GuestMemory &DistinctPages();

// As QEMU's buffer_is_zero(): nearly always decided by the first words.
bool IsZero(const void *page, size_t size);

// Fails the benchmark; returns whether it did.
inline bool Failed(benchmark::State &state, const Status &status) {
    if (!status.ok()) {
        state.SkipWithError(status.message().c_str());
    }
    return !status.ok();
}

} // namespace gang::bench

#endif
