// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A directory whose memory somebody has written over, or left half-written by
// dying: no crash, no access outside, and a usable directory after a death
// (invariants 4 and 5).

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "directory.h"
#include "testing.h"

namespace gang {
namespace {

using test::Gang;
using test::Rng;

class HostileDirectory : public testing::Test {
  protected:
    HostileDirectory() : gang_(1024, 4096), d_(*gang_.directory) {
        member_ = gang_.AddMember();
        gang_.AddMember();
    }
    void Overwrite(uint64_t offset, const void *bytes, size_t size) {
        ASSERT_EQ(pwrite(gang_.directory_fd.get(), bytes, size, static_cast<off_t>(offset)),
                  static_cast<ssize_t>(size));
    }
    template <typename T> Code OpenWith(size_t offset, T value) {
        T old;
        EXPECT_EQ(pread(gang_.directory_fd.get(), &old, sizeof(old), static_cast<off_t>(offset)),
                  static_cast<ssize_t>(sizeof(old)));
        Overwrite(offset, &value, sizeof(value));
        std::unique_ptr<Directory> other;
        Status status = Directory::Open(gang_.directory_fd.get(), &other);
        Overwrite(offset, &old, sizeof(old));
        return status.code();
    }

    Gang gang_;
    Directory &d_;
    uint32_t member_;
    const Hash hash_{0x1111111111111111, 0x2222222222222222};
};

TEST_F(HostileDirectory, Invariant5_AHeaderThatMakesNoSenseIsRefused) {
    const uint64_t size = d_.size();
    const size_t fields[] = {offsetof(DirectoryHeader, buckets), offsetof(DirectoryHeader, chunks),
                             offsetof(DirectoryHeader, members_off),
                             offsetof(DirectoryHeader, chunks_off),
                             offsetof(DirectoryHeader, buckets_off),
                             offsetof(DirectoryHeader, features_off),
                             offsetof(DirectoryHeader, feature_sets),
                             offsetof(DirectoryHeader, mirrored_off),
                             offsetof(DirectoryHeader, mirror_off)};
    for (size_t field : fields) {
        for (uint64_t value : {UINT64_MAX, UINT64_MAX / 2, UINT64_MAX / 64, UINT64_MAX - 63, size,
                               size + 64, size * 2, uint64_t{1} << 32}) {
            EXPECT_EQ(OpenWith<uint64_t>(field, value), Code::kInvalid)
                << "field " << field << " value " << value;
        }
    }
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, buckets), 0), Code::kInvalid);
    // Sizes that fit the segment, but are not the ones it was made for.
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, buckets), 1), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, chunks), 17), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, slots), 2048), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, members_off), 448), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, members_off), 385), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, members_off), 0), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, buckets_off), 0), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(offsetof(DirectoryHeader, chunks_off), 0), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint32_t>(offsetof(DirectoryHeader, page_size), 4097), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint32_t>(offsetof(DirectoryHeader, max_members), 127), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint32_t>(offsetof(DirectoryHeader, max_channels), 65), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint32_t>(offsetof(DirectoryHeader, hash_kind), 7), Code::kIncompatible);
    EXPECT_EQ(OpenWith<uint64_t>(0, kStoreMagic), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(0, kDirectoryMagic), Code::kOk);
}

TEST_F(HostileDirectory, Invariant5_GeometryIsNotReadAgainOnceChecked) {
    uint64_t huge = UINT64_MAX / 3;
    Overwrite(offsetof(DirectoryHeader, buckets), &huge, sizeof(huge));
    Overwrite(offsetof(DirectoryHeader, chunks), &huge, sizeof(huge));
    Overwrite(offsetof(DirectoryHeader, buckets_off), &huge, sizeof(huge));
    Rng rng(1);
    for (int i = 0; i < 1000; i++) {
        d_.Decide({rng() | 1, rng() | 1}, member_);
    }
    uint32_t slot;
    for (int i = 0; i < 1000; i++) {
        d_.TakeChunk(member_, 0, &slot);
    }
    EXPECT_EQ(d_.slots_taken(), 1024u);
}

TEST_F(HostileDirectory, Invariant5_AClaimOfANonsenseSlotIsNeitherReferencedNorWaitedFor) {
    uint32_t slot;
    ASSERT_TRUE(d_.TakeChunk(member_, 0, &slot));
    d_.Count(hash_);
    Entry *entry = d_.Decide(hash_, member_).entry;
    const uint64_t claims[] = {1, 0xffffffff, UINT64_MAX, uint64_t{1} << 63, uint64_t{1025} << 32,
                               // a slot of the store that nobody has taken
                               uint64_t{kChunkSlots + 1} << 32 | 1};
    for (uint64_t claim : claims) {
        entry->claim.store(claim);
        uint32_t owner, channel;
        EXPECT_FALSE(d_.Owner(claim, &owner, &channel)) << claim;
        EXPECT_FALSE(d_.Confirmed(claim)) << claim;
        EXPECT_EQ(d_.Decide(hash_, member_).verdict, Verdict::kLiteral) << claim;
    }
}

TEST_F(HostileDirectory, Invariant5_AChunkWithANonsenseOwnerIsNobodys) {
    uint32_t slot;
    ASSERT_TRUE(d_.TakeChunk(member_, 0, &slot));
    d_.Count(hash_);
    d_.Count(hash_);
    Decision d = d_.Decide(hash_, member_);
    ASSERT_TRUE(d_.Claim(d.entry, d.claim, slot, 1));
    for (uint32_t owner : {0u, 1u, ~0u, 1u << 31 | 128u << 8, 1u << 31 | 64u, 1u << 31 | 0xffu}) {
        Overwrite(d_.header().chunks_off, &owner, sizeof(owner));
        EXPECT_EQ(d_.Decide(hash_, member_).verdict, Verdict::kLiteral) << owner;
    }
}

TEST_F(HostileDirectory, Invariant4_AMemberKilledBetweenTheTwoHalvesOfAHashHarmsNobody) {
    Entry *entry = d_.Decide(hash_, member_).entry;
    entry->hash_hi.store(0); // as if the process had died after its first word
    entry->literal.store(0);
    // The same content completes the entry, and finds it from then on.
    Decision again = d_.Decide(hash_, member_);
    EXPECT_EQ(again.entry, entry);
    EXPECT_EQ(entry->hash_hi.load(), hash_.hi);
    EXPECT_TRUE(d_.Count(hash_));
}

TEST_F(HostileDirectory, Invariant4_AHalfHashMayBeCompletedByAnotherContent) {
    // Another content in the same bucket with the same first half.
    Entry *entry = d_.Decide(hash_, member_).entry;
    entry->hash_hi.store(0);
    Hash other = hash_;
    other.hi ^= 1;
    EXPECT_EQ(d_.Decide(other, member_).entry, entry);
    EXPECT_NE(d_.Decide(hash_, member_).entry, entry);
    EXPECT_NE(d_.Decide(hash_, member_).entry, nullptr);
}

TEST_F(HostileDirectory, Invariant4_AChunkTakenByAMemberThatDiedAtOnceIsOnlyLost) {
    uint32_t first, second;
    ASSERT_TRUE(d_.TakeChunk(member_, 0, &first));
    uint32_t none = 0; // died before it wrote its name
    Overwrite(d_.header().chunks_off, &none, sizeof(none));
    ASSERT_TRUE(d_.TakeChunk(member_, 0, &second));
    EXPECT_NE(first, second);
}

// Chunks that claim to be full of what was kept, and a number that is written back: a search
// that ends nowhere else ends after as many chunks as there are.
TEST(LargeHostileDirectory, Invariant5_ANumberOfChunksThatIsWrittenBackKeepsNobody) {
    constexpr uint32_t kFull = 1u << 30 | kChunkSlots;
    DirectoryConfig config;
    config.gang_pages = config.store_slots = 1 << 26;
    test::Fd fd;
    std::unique_ptr<Directory> victim, hostile;
    GANG_OK(Directory::Create(config, fd.out()));
    GANG_OK(Directory::Open(fd.get(), &victim));
    GANG_OK(Directory::Open(fd.get(), &hostile));
    auto *header = const_cast<DirectoryHeader *>(&hostile->header());
    auto *owners = reinterpret_cast<Atomic<uint32_t> *>(reinterpret_cast<uint8_t *>(header) +
                                                        header->chunks_off);
    const uint64_t chunks = header->chunks;
    const auto fill = [&](uint64_t from, uint64_t to) {
        for (uint64_t i = from; i < std::min(to, chunks); i++) {
            owners[i].store(kFull, std::memory_order_relaxed);
        }
    };
    fill(0, chunks);
    std::atomic<bool> writes{false}, done{false};
    std::atomic<uint64_t> written_back{0}; // each after a sixteenth of the chunks, or more
    std::thread writer([&] {
        writes = true;
        while (!done && written_back < 1000) { // so that it fails, and does not hang
            const uint64_t next = header->next_chunk.load();
            if (next >= chunks / 16) {
                fill(0, next);
                const uint64_t by_now = header->next_chunk.exchange(0);
                written_back++;
                fill(next, by_now + chunks / 16);
            }
        }
    });
    while (!writes) {
        std::this_thread::yield();
    }
    for (int i = 0; i < 20; i++) {
        written_back = 0;
        uint32_t slot = 0;
        (void)victim->TakeChunk(0, 0, &slot);
        EXPECT_LE(written_back, 20u);
    }
    done = true;
    writer.join();
}

TEST_F(HostileDirectory, Invariant5_RandomMemoryCrashesNobody) {
    Rng rng(test::TestSeed());
    std::vector<uint8_t> noise(d_.size() - sizeof(DirectoryHeader));
    for (int round = 0; round < 20; round++) {
        for (uint8_t &b : noise) {
            b = static_cast<uint8_t>(rng());
        }
        Overwrite(sizeof(DirectoryHeader), noise.data(), noise.size());
        for (int i = 0; i < 2000; i++) {
            // Half of the hashes are ones that are in the noise.
            uint64_t word[2] = {rng() | 1, rng() | 1};
            if (i % 2) {
                size_t at = d_.header().buckets_off - sizeof(DirectoryHeader) +
                            rng() % (d_.header().buckets * 2) * sizeof(Entry);
                memcpy(word, noise.data() + at, sizeof(word));
            }
            Decision d = d_.Decide({word[0], word[1]}, member_);
            if (d.verdict == Verdict::kReference || d.verdict == Verdict::kDefer) {
                EXPECT_LT(d.slot, 1024u);
            }
            if (d.entry) {
                d_.Claim(d.entry, d.claim, 5, 1);
            }
            d_.Confirmed(rng());
            d_.SetAcked(static_cast<uint32_t>(rng()), static_cast<uint32_t>(rng()), 1);
            d_.member_state(static_cast<uint32_t>(rng()));
        }
    }
}

} // namespace
} // namespace gang
