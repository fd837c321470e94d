// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Lookup and claim by processes that share one directory, each walking all of
// the gang's contents from another place: every content is claimed once, and
// found claimed by the others.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>

#include "bench_memory.h"

namespace gang::bench {
namespace {

constexpr size_t kBatch = 128; // prefetched together, as a packet's pages are

struct Gate {
    std::atomic<uint32_t> ready, go, failed;
};

Hash HashOf(uint64_t n) {
    uint64_t lo = (n + 1) * 0x9e3779b97f4a7c15, hi = (n + 1) * 0xd1342543de82ef95;
    return {(lo ^ lo >> 32) | 1, (hi ^ hi >> 29) | 1};
}

// One process: looks every content up, claims what nobody has.
bool LookUpAndClaim(Directory *directory, uint32_t member, uint64_t contents, uint64_t start) {
    uint32_t slot = 0, end = 0;
    Hash hashes[kBatch];
    for (uint64_t i = 0; i < contents; i += kBatch) {
        for (size_t k = 0; k < kBatch; k++) {
            hashes[k] = HashOf((start + i + k) % contents);
            directory->Prefetch(hashes[k]);
        }
        for (const Hash &hash : hashes) {
            Decision d = directory->Decide(hash, member);
            if (!d.entry || d.verdict != Verdict::kPublish) {
                continue;
            }
            if (slot == end) {
                if (!directory->TakeChunk(member, 0, &slot)) {
                    return false;
                }
                end = slot + kChunkSlots;
            }
            if (directory->Claim(d.entry, d.claim, slot, 1)) {
                slot++;
            }
        }
    }
    return true;
}

void BM_LookupAndClaim(benchmark::State &state) {
    const auto processes = static_cast<uint32_t>(state.range(0));
    const uint64_t contents = Pages() / kBatch * kBatch * 4;
    void *shared =
        mmap(nullptr, sizeof(Gate), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    auto *gate = static_cast<Gate *>(shared);
    for (auto _ : state) {
        state.PauseTiming();
        test::Gang gang(contents + (processes + 1) * kChunkSlots, 2 * contents);
        for (uint64_t i = 0; i < contents; i++) {
            gang.directory->Count(HashOf(i));
            gang.directory->Count(HashOf(i));
        }
        gate->ready = gate->go = gate->failed = 0;
        std::vector<pid_t> children;
        for (uint32_t i = 0; i < processes; i++) {
            uint32_t member = gang.AddMember();
            pid_t pid = fork();
            if (pid == 0) {
                std::unique_ptr<Directory> directory; // mappings do not pass a fork
                bool ok = Directory::Open(gang.directory_fd.get(), &directory).ok();
                gate->ready++;
                while (!gate->go) {
                    usleep(100);
                }
                ok = ok && LookUpAndClaim(directory.get(), member, contents,
                                          contents / processes * i);
                _exit(ok ? 0 : 1);
            }
            children.push_back(pid);
        }
        while (gate->ready < processes) {
            usleep(100);
        }
        auto start = std::chrono::steady_clock::now();
        gate->go = 1;
        for (pid_t pid : children) {
            int status;
            if (waitpid(pid, &status, 0) != pid || status != 0) {
                gate->failed++;
            }
        }
        std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        state.SetIterationTime(took.count());
        state.ResumeTiming();
        if (gate->failed) {
            state.SkipWithError("a process failed");
            break;
        }
    }
    munmap(shared, sizeof(Gate));
    state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(contents * processes));
}
BENCHMARK(BM_LookupAndClaim)->Arg(1)->Arg(2)->Arg(8)->UseManualTime()->Unit(benchmark::kMillisecond);

} // namespace
} // namespace gang::bench
