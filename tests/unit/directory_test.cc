// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The directory's promises: one decision a content, references to confirmed
// content only, take-over from the dead, and no trust in its own memory.

#include "directory.h"

#include <unistd.h>

#include <set>
#include <vector>

#include "testing.h"

namespace gang {
namespace {

using test::Gang;

Hash HashOf(uint64_t n) {
    return {n * 0x9e3779b97f4a7c15 | 1, n * 0xd1342543de82ef95 | 1};
}

class DirectoryTest : public testing::Test {
  protected:
    DirectoryTest() : gang_(4096, 8192), d_(*gang_.directory) {
        a_ = gang_.AddMember();
        b_ = gang_.AddMember();
    }
    // `hash` seen by two members' scans.
    void CountTwice(const Hash &hash) {
        d_.Count(hash);
        d_.Count(hash);
    }
    // Has `member` publish `hash` as packet `packet` of its channel 0.
    uint32_t Publish(const Hash &hash, uint32_t member, uint32_t packet) {
        Decision d = d_.Decide(hash, member);
        EXPECT_EQ(d.verdict, Verdict::kPublish);
        uint32_t slot;
        EXPECT_TRUE(d_.TakeChunk(member, 0, &slot));
        EXPECT_TRUE(d_.Claim(d.entry, d.claim, slot, packet));
        return slot;
    }

    Gang gang_;
    Directory &d_;
    uint32_t a_, b_;
};

TEST_F(DirectoryTest, CountTellsWhetherTheContentWasKnown) {
    EXPECT_FALSE(d_.Count(HashOf(1)));
    EXPECT_TRUE(d_.Count(HashOf(1)));
    EXPECT_FALSE(d_.Count(HashOf(2)));
}

TEST_F(DirectoryTest, HashesThatAgreeInOneHalfOnlyAreDifferentContents) {
    Hash hash = HashOf(1), other_hi = hash, other_lo = hash;
    other_hi.hi ^= 4;
    other_lo.lo ^= 4;
    EXPECT_FALSE(d_.Count(hash));
    EXPECT_FALSE(d_.Count(other_hi));
    EXPECT_FALSE(d_.Count(other_lo));
    EXPECT_TRUE(d_.Count(other_hi));
}

TEST_F(DirectoryTest, WhatOccursOnceIsNotKeptAtTheDestination) {
    d_.Count(HashOf(1));
    EXPECT_EQ(d_.Decide(HashOf(1), a_).verdict, Verdict::kLiteral);
}

TEST_F(DirectoryTest, WhatOccursTwiceIsPublished) {
    CountTwice(HashOf(1));
    EXPECT_EQ(d_.Decide(HashOf(1), a_).verdict, Verdict::kPublish);
}

// Content the scans did not see, or saw once, shows at its second sending.
TEST_F(DirectoryTest, TheSecondLiteralOfAContentIsPublished) {
    EXPECT_EQ(d_.Decide(HashOf(1), a_).verdict, Verdict::kLiteral);
    EXPECT_EQ(d_.Decide(HashOf(1), b_).verdict, Verdict::kPublish);
}

TEST_F(DirectoryTest, Invariant2_NothingIsReferencedBeforeItIsConfirmed) {
    CountTwice(HashOf(1));
    uint32_t slot = Publish(HashOf(1), a_, 3);
    for (uint32_t acked = 0; acked < 3; acked++) {
        d_.SetAcked(a_, 0, acked);
        EXPECT_EQ(d_.Decide(HashOf(1), b_).verdict, Verdict::kDefer) << acked;
        EXPECT_EQ(d_.Decide(HashOf(1), a_).verdict, Verdict::kDefer) << acked;
    }
    d_.SetAcked(a_, 1, 100); // another channel's acknowledgements do not count
    d_.SetAcked(b_, 0, 100); // nor another member's
    EXPECT_EQ(d_.Decide(HashOf(1), b_).verdict, Verdict::kDefer);
    d_.SetAcked(a_, 0, 3);
    Decision d = d_.Decide(HashOf(1), b_);
    EXPECT_EQ(d.verdict, Verdict::kReference);
    EXPECT_EQ(d.slot, slot);
}

TEST_F(DirectoryTest, Invariant4_ADeadMembersUnconfirmedClaimIsTakenOver) {
    for (MemberState gone : {MemberState::kDead, MemberState::kLeft}) {
        Hash hash = HashOf(static_cast<uint64_t>(gone));
        uint32_t dying = gang_.AddMember();
        CountTwice(hash);
        uint32_t lost = Publish(hash, dying, 1);
        EXPECT_EQ(d_.Decide(hash, b_).verdict, Verdict::kDefer);
        d_.SetMemberState(dying, gone);
        uint32_t slot = Publish(hash, b_, 1);
        EXPECT_NE(slot, lost);
        EXPECT_EQ(d_.Decide(hash, a_).verdict, Verdict::kDefer);
        d_.SetAcked(b_, 0, 1);
        EXPECT_EQ(d_.Decide(hash, a_).slot, slot);
        d_.SetAcked(b_, 0, 0);
    }
}

TEST_F(DirectoryTest, Invariant4_ADeadMembersConfirmedContentStays) {
    CountTwice(HashOf(1));
    uint32_t slot = Publish(HashOf(1), a_, 1);
    d_.SetAcked(a_, 0, 1);
    for (MemberState gone : {MemberState::kDead, MemberState::kLeft}) {
        d_.SetMemberState(a_, gone);
        Decision d = d_.Decide(HashOf(1), b_);
        EXPECT_EQ(d.verdict, Verdict::kReference);
        EXPECT_EQ(d.slot, slot);
    }
}

TEST_F(DirectoryTest, OneOfTwoClaimsWins) {
    CountTwice(HashOf(1));
    Decision first = d_.Decide(HashOf(1), a_), second = d_.Decide(HashOf(1), b_);
    EXPECT_EQ(first.verdict, Verdict::kPublish);
    EXPECT_EQ(second.verdict, Verdict::kPublish);
    uint32_t slot_a, slot_b;
    ASSERT_TRUE(d_.TakeChunk(a_, 0, &slot_a));
    ASSERT_TRUE(d_.TakeChunk(b_, 0, &slot_b));
    EXPECT_TRUE(d_.Claim(second.entry, second.claim, slot_b, 1));
    EXPECT_FALSE(d_.Claim(first.entry, first.claim, slot_a, 1));
    EXPECT_EQ(d_.Decide(HashOf(1), a_).slot, slot_b);
}

TEST_F(DirectoryTest, Invariant4_OneOfTwoTakeOversWins) {
    CountTwice(HashOf(1));
    Publish(HashOf(1), a_, 1);
    d_.SetMemberState(a_, MemberState::kDead);
    uint32_t c = gang_.AddMember();
    Decision first = d_.Decide(HashOf(1), b_), second = d_.Decide(HashOf(1), c);
    uint32_t slot_b, slot_c;
    ASSERT_TRUE(d_.TakeChunk(b_, 0, &slot_b));
    ASSERT_TRUE(d_.TakeChunk(c, 0, &slot_c));
    EXPECT_TRUE(d_.Claim(first.entry, first.claim, slot_b, 1));
    EXPECT_FALSE(d_.Claim(second.entry, second.claim, slot_c, 1));
}

TEST_F(DirectoryTest, ChunksAreHandedOutOnceAndEnd) {
    std::set<uint32_t> seen;
    uint32_t slot;
    while (d_.TakeChunk(a_, 3, &slot)) {
        EXPECT_TRUE(seen.insert(slot).second);
        EXPECT_EQ(slot % kChunkSlots, 0u);
        EXPECT_LE(uint64_t{slot} + kChunkSlots, gang_.store->slots());
    }
    EXPECT_EQ(seen.size(), gang_.store->slots() / kChunkSlots);
    EXPECT_EQ(d_.slots_taken(), gang_.store->slots());
    EXPECT_FALSE(d_.TakeChunk(b_, 0, &slot));
    EXPECT_EQ(d_.slots_taken(), gang_.store->slots());
}

TEST_F(DirectoryTest, Invariant8_AFullStoreHandsOutNoSlotItDoesNotHave) {
    Gang small(kChunkSlots + 1, 8192); // one whole chunk, the rest is not used
    uint32_t slot;
    EXPECT_TRUE(small.directory->TakeChunk(0, 0, &slot));
    EXPECT_FALSE(small.directory->TakeChunk(0, 0, &slot));
    Gang smaller(kChunkSlots - 1, 8192);
    EXPECT_FALSE(smaller.directory->TakeChunk(0, 0, &slot));
}

TEST_F(DirectoryTest, Invariant8_AFullDirectoryMeansLiterals) {
    Gang small(4096, 1); // 1024 entries, the least there is
    uint64_t full = 0, counted = 0;
    test::Rng rng(1);
    for (int i = 0; i < 5000; i++) {
        Hash hash{rng() | 1, rng() | 1};
        Decision d = small.directory->Decide(hash, 0);
        full += d.entry == nullptr;
        EXPECT_EQ(d.verdict, Verdict::kLiteral);
        if (!d.entry) {
            EXPECT_FALSE(small.directory->Count(hash));
            EXPECT_FALSE(small.directory->Count(hash));
            counted++;
        }
    }
    EXPECT_GT(full, 3000u);
    EXPECT_EQ(small.directory->stat(0, Stat::kDirectoryFull), full);
    EXPECT_LE(small.directory->header().entries_used.load(), 1024u);
}

// Nearly every content finds its place when no two pages of the gang are equal.
TEST_F(DirectoryTest, HasRoomForAGangWithoutDuplicates) {
    constexpr uint64_t kPages = 1 << 18;
    Gang gang(64, kPages);
    test::Rng rng(test::TestSeed());
    uint64_t lost = 0;
    for (uint64_t i = 0; i < kPages; i++) {
        lost += gang.directory->Decide({rng() | 1, rng() | 1}, 0).entry == nullptr;
    }
    EXPECT_LT(lost, kPages / 50);
}

TEST_F(DirectoryTest, Invariant8_TakesAtMostOneAndAHalfPercentOfTheGangsRam) {
    for (uint64_t pages = 1 << 14; pages <= uint64_t{1} << 30; pages = pages * 3 / 2) {
        DirectoryConfig config;
        config.gang_pages = pages;
        config.store_slots = UINT32_MAX;
        EXPECT_LE(Directory::SizeFor(config), pages * kPageSize * 15 / 1000) << pages;
    }
}

TEST_F(DirectoryTest, MembersAreNumberedInTurnUntilThereAreTooMany) {
    for (uint32_t i = 2; i < kMaxMembers; i++) {
        EXPECT_EQ(gang_.AddMember(), i);
        EXPECT_EQ(d_.member_state(i), MemberState::kAlive);
    }
    uint32_t index;
    EXPECT_EQ(d_.AddMember(1, &index).code(), Code::kExhausted);
    d_.SetMemberState(5, MemberState::kLeft);
    EXPECT_EQ(d_.AddMember(1, &index).code(), Code::kExhausted) << "records are not used again";
}

TEST_F(DirectoryTest, StatsAddUp) {
    d_.AddStat(a_, Stat::kZeroPages, 3);
    d_.AddStat(a_, Stat::kZeroPages, 4);
    d_.SetStat(b_, Stat::kRound, 9);
    EXPECT_EQ(d_.stat(a_, Stat::kZeroPages), 7u);
    EXPECT_EQ(d_.stat(b_, Stat::kRound), 9u);
    EXPECT_EQ(d_.stat(b_, Stat::kZeroPages), 0u);
}

} // namespace
} // namespace gang
