// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The same sharing as in process_test, by threads of one process, for
// ThreadSanitizer to look at: members that migrate, one that watches as gangd
// does, and memory that is nobody's but its thread's.

#include <atomic>
#include <deque>
#include <thread>

#include "scan.h"
#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

constexpr size_t kThreads = 6;
constexpr size_t kPages = 128;

// One VM after the other, each with some rounds of a guest that writes.  Some
// die on the way, without a word to anybody.
void Migrate(Gang *gang, StallWatch *stalls, uint64_t seed, std::atomic<uint64_t> *wrong,
             std::atomic<uint64_t> *references) {
    Rng rng(seed);
    for (int life = 0; life < 6; life++) {
        TestVm vm(*gang, gang->directory.get(), kPages, Below(rng, 2) ? kRaw : kZstd, stalls);
        for (size_t page = 0; page < kPages; page++) {
            FillPage(vm.source.page(page), Below(rng, 200));
        }
        std::vector<uint64_t> offsets = vm.source.offsets();
        ScanPages(gang->directory.get(), vm.member, vm.source.data(), offsets.data(),
                  offsets.size(), IsZero, true);
        const bool dies = Below(rng, 3) == 0;
        std::vector<bool> dirty(kPages, true);
        for (int round = 0; round < 12; round++) {
            const bool last = round == 11;
            if (dies && round == 6) {
                break;
            }
            for (int i = 0; i < 8 && round && !last; i++) {
                size_t page = Below(rng, kPages);
                FillPage(vm.source.page(page), Below(rng, 200));
                dirty[page] = true;
            }
            std::vector<size_t> pages;
            for (size_t page = 0; page < kPages; page++) {
                if (dirty[page]) {
                    pages.push_back(page);
                }
                dirty[page] = false;
            }
            if (pages.empty()) {
                continue;
            }
            Status status = vm.Deliver(vm.Encode(pages, !last));
            if (!status.ok()) {
                ADD_FAILURE() << status.message();
                return;
            }
            if (Below(rng, 2) || last) {
                vm.Ack();
            }
            for (const Deferred &page : vm.deferred) {
                dirty[page.offset / kPageSize] = true;
            }
            vm.deferred.clear();
        }
        *references += gang->directory->stat(vm.member, Stat::kReferencedPages);
        gang->directory->SetMemberState(vm.member, dies ? MemberState::kDead : MemberState::kLeft);
        *wrong += !dies && !vm.Identical();
    }
}

TEST(Threads, Invariant9_MembersShareWithoutLocksAndEveryPageIsRight) {
    Rng rng(TestSeed());
    for (uint64_t slots : {uint64_t{8192}, uint64_t{2 * kChunkSlots}}) {
        Gang gang(slots, kThreads * kPages);
        StallWatch stalls(gang.directory.get(), 5);
        std::atomic<uint64_t> wrong{0}, references{0};
        std::atomic<bool> done{false};
        std::thread watch([&] {
            uint64_t sum = 0;
            for (uint64_t now = 1; !done; now++) {
                stalls.Observe(now);
                for (uint32_t m = 0; m < kMaxMembers; m++) {
                    sum += gang.directory->stat(m, Stat::kReferencedPages);
                    sum += gang.directory->acked(m, 0);
                }
                sum += gang.directory->slots_taken() + gang.store->slots_used();
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
            EXPECT_GT(sum, 0u);
        });
        std::vector<std::thread> threads;
        for (size_t i = 0; i < kThreads; i++) {
            threads.emplace_back(Migrate, &gang, &stalls, rng(), &wrong, &references);
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        done = true;
        watch.join();
        EXPECT_EQ(wrong, 0u) << "VMs whose memory is not the source's";
        if (slots > 2 * kChunkSlots) { // who has one of two chunks may die with it
            EXPECT_GT(references, 0u);
        }
    }
}

// The two decisions that have one winner, as fast as they can be asked for.
TEST(Threads, EveryChunkIsTakenOnceAndEveryContentClaimedOnce) {
    constexpr uint64_t kRaces = 2000;
    Gang gang(kRaces * kChunkSlots, kRaces * kChunkSlots);
    Directory &d = *gang.directory;
    gang.AddMember();
    gang.AddMember();
    Rng rng(TestSeed());
    std::vector<Hash> hashes(kRaces);
    for (Hash &hash : hashes) {
        hash = {rng() | 1, rng() | 1};
        d.Count(hash);
        d.Count(hash);
    }
    std::vector<std::atomic<uint8_t>> claimed(kRaces), taken(kRaces);
    std::atomic<uint64_t> lost{0}, at[2] = {};
    std::vector<std::thread> threads;
    for (uint32_t member = 0; member < 2; member++) {
        threads.emplace_back([&, member] {
            for (uint64_t i = 0; i < kRaces; i++) {
                at[member] = i + 1; // both at the same one
                while (at[1 - member] <= i) {
                    std::this_thread::yield();
                }
                uint32_t slot;
                if (d.TakeChunk(member, 0, &slot)) {
                    taken[slot / kChunkSlots]++;
                }
                Decision decision = d.Decide(hashes[i], member);
                if (decision.verdict != Verdict::kPublish) {
                    lost++;
                } else if (d.Claim(decision.entry, decision.claim, member, 1)) {
                    claimed[i]++;
                } else {
                    lost++;
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (uint64_t i = 0; i < kRaces; i++) {
        ASSERT_EQ(taken[i], 1) << "chunk " << i;
        ASSERT_EQ(claimed[i], 1) << "content " << i;
    }
    EXPECT_EQ(lost, kRaces);
}

// All scan threads of a VM at once, on the same contents.
TEST(Threads, ScansCountEveryPageOnce) {
    Gang gang(64, kThreads * kPages);
    GuestMemory memory(kPages);
    for (size_t i = 0; i < kPages; i++) {
        FillPage(memory.page(i), 1 + i % 50);
    }
    const std::vector<uint64_t> offsets = memory.offsets();
    const uint32_t member = gang.AddMember();
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; i++) {
        threads.emplace_back([&] {
            ScanPages(gang.directory.get(), member, memory.data(), offsets.data(), offsets.size(),
                      IsZero, true);
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(gang.directory->stat(member, Stat::kScannedPages), kThreads * kPages);
    EXPECT_EQ(gang.directory->stat(member, Stat::kScanDuplicates), kThreads * kPages - 50);
    EXPECT_EQ(gang.directory->header().entries_used, 50u);
}

} // namespace
} // namespace gang
