// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What everything else is bound by: hashing pages that come from DRAM, and the
// scan, which hashes them into the directory.  Target: scan >= 5 GB/s a core.

#include "bench_memory.h"
#include "hash.h"
#include "scan.h"

namespace gang::bench {
namespace {

void HashFromDram(benchmark::State &state, HashKind kind) {
    const test::GuestMemory &memory = DistinctPages();
    Hasher hasher(Seed{1, 2, 3}, kind);
    size_t i = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(hasher(memory.page(i), kPageSize));
        i = i + 1 == memory.pages() ? 0 : i + 1;
    }
    state.SetBytesProcessed(state.iterations() * int64_t{kPageSize});
}
void BM_HashFromDram(benchmark::State &state) { HashFromDram(state, HashKind::kXxh3_128); }
void BM_Sha256FromDram(benchmark::State &state) { HashFromDram(state, HashKind::kSha256); }
BENCHMARK(BM_HashFromDram);
BENCHMARK(BM_Sha256FromDram);

void BM_HashFromCache(benchmark::State &state) {
    const test::GuestMemory &memory = DistinctPages();
    Hasher hasher(Seed{1, 2, 3});
    for (auto _ : state) {
        benchmark::DoNotOptimize(hasher(memory.page(0), kPageSize));
    }
    state.SetBytesProcessed(state.iterations() * int64_t{kPageSize});
}
BENCHMARK(BM_HashFromCache);

// Argument: GiB of RAM the whole gang has, which is what the directory's size
// follows; its buckets are not in any cache.
void Scan(benchmark::State &state, HashKind kind) {
    const test::GuestMemory &memory = DistinctPages();
    const std::vector<uint64_t> offsets = memory.offsets();
    test::Gang gang(1024, static_cast<uint64_t>(state.range(0)) << 18, 0, kind);
    const uint32_t member = gang.AddMember();
    // The directory's own first-touch faults are not what is measured.
    ScanPages(gang.directory.get(), member, memory.data(), offsets.data(), offsets.size(), IsZero, true);
    for (auto _ : state) {
        ScanPages(gang.directory.get(), member, memory.data(), offsets.data(), offsets.size(),
                  IsZero, true);
    }
    state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(memory.bytes()));
}
void BM_Scan(benchmark::State &state) { Scan(state, HashKind::kXxh3_128); }
void BM_ScanSha256(benchmark::State &state) { Scan(state, HashKind::kSha256); }
BENCHMARK(BM_ScanSha256)->Arg(4)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_Scan)->Arg(4)->Arg(32)->Unit(benchmark::kMillisecond);

} // namespace
} // namespace gang::bench
