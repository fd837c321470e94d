// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A member whose destination stops acknowledging holds the others up for a
// bounded time only (invariant 4).

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

class Stall : public testing::Test {
  protected:
    Stall()
        : gang_(1024, 4096), d_(*gang_.directory), watch_(gang_.directory.get(), 1000),
          owner_(gang_, 4, kRaw), waiting_(gang_, gang_.directory.get(), 4, kRaw, &watch_) {
        for (TestVm *vm : {&owner_, &waiting_}) {
            vm->Fill({1, 2, 3, 4});
            vm->Scan();
        }
    }

    Gang gang_;
    Directory &d_;
    StallWatch watch_;
    TestVm owner_, waiting_;
};

TEST_F(Stall, Invariant4_NobodyWaitsLongerThanTheLimit) {
    GANG_OK(owner_.Deliver(owner_.EncodeAll()));
    watch_.Observe(5000);
    EXPECT_TRUE(waiting_.EncodeAll().empty());
    watch_.Observe(5000); // the wait begins here
    watch_.Observe(5999);
    EXPECT_TRUE(waiting_.EncodeAll().empty());
    watch_.Observe(6000);
    GANG_OK(waiting_.Send(waiting_.EncodeAll()));
    EXPECT_EQ(waiting_.Kinds(), "llll");
    EXPECT_TRUE(waiting_.Identical());
    EXPECT_EQ(d_.stat(waiting_.member, Stat::kStalledPages), 4u);
}

TEST_F(Stall, ASlowOwnerIsNotStalledAsLongAsItMoves) {
    GANG_OK(owner_.Send(owner_.Encode({0})));
    for (uint64_t now = 0; now < 10000; now += 500) {
        owner_.Encode({1}); // in flight again and again
        waiting_.Encode({1});
        watch_.Observe(now);
        d_.SetAcked(owner_.member, 0, d_.acked(owner_.member, 0) + 1);
        watch_.Observe(now + 499);
        EXPECT_FALSE(watch_.Stalled(owner_.member, 0));
    }
}

TEST_F(Stall, AnOwnerNobodyWaitsForIsNeverCalledStalled) {
    owner_.EncodeAll();
    for (uint64_t now = 0; now < 100000; now += 100) {
        watch_.Observe(now);
    }
    EXPECT_FALSE(watch_.Stalled(owner_.member, 0));
    // The time counts from the moment somebody waits, not from the last packet.
    EXPECT_TRUE(waiting_.EncodeAll().empty());
    watch_.Observe(100100);
    EXPECT_FALSE(watch_.Stalled(owner_.member, 0));
}

TEST_F(Stall, AWaitThatBeginsLongAfterTheLastLookIsNotAStall) {
    GANG_OK(owner_.Deliver(owner_.EncodeAll()));
    EXPECT_TRUE(waiting_.EncodeAll().empty());
    watch_.Observe(1000000); // the first look ever
    EXPECT_FALSE(watch_.Stalled(owner_.member, 0));
    owner_.Ack();
    watch_.Observe(1000001);
    watch_.Wait(owner_.member, 0);
    watch_.Observe(2000000);
    EXPECT_FALSE(watch_.Stalled(owner_.member, 0));
    watch_.Observe(2001000);
    EXPECT_TRUE(watch_.Stalled(owner_.member, 0));
}

TEST_F(Stall, AStalledOwnerThatMovesAgainIsWaitedForAgain) {
    GANG_OK(owner_.Deliver(owner_.Encode({0})));
    owner_.Encode({1});
    waiting_.Encode({0});
    watch_.Observe(0);
    watch_.Observe(1000);
    EXPECT_TRUE(watch_.Stalled(owner_.member, 0));
    owner_.Ack();
    watch_.Observe(1001);
    EXPECT_FALSE(watch_.Stalled(owner_.member, 0));
    GANG_OK(waiting_.Send(waiting_.Encode({0})));
    EXPECT_EQ(waiting_.Kinds(), "r");
    EXPECT_TRUE(waiting_.Encode({1}).empty());
}

TEST_F(Stall, OneStalledChannelSaysNothingOfAnother) {
    std::unique_ptr<Encoder> second;
    GANG_OK(Encoder::Create(&d_, nullptr, owner_.member, 1, kRaw, &second));
    uint64_t offset = kPageSize;
    EncodedPacket packet;
    owner_.Encode({0});
    GANG_OK(second->Encode("pc.ram", nullptr, owner_.source.data(), &offset, 1, IsZero, nullptr,
                           &packet));
    waiting_.Encode({0});
    watch_.Observe(0);
    watch_.Observe(1000);
    EXPECT_TRUE(watch_.Stalled(owner_.member, 0));
    EXPECT_FALSE(watch_.Stalled(owner_.member, 1));
    EXPECT_TRUE(waiting_.Encode({1}).empty());
}

// A destination, or a member that writes its own record, may acknowledge a packet just
// before each limit.
TEST_F(Stall, Invariant4_NoPageWaitsForEverForAnOwnerThatMovesJustOftenEnough) {
    owner_.EncodeAll();
    waiting_.EncodeAll();
    ASSERT_EQ(waiting_.deferred.size(), 4u);
    d_.SetAcked(owner_.member, 0, 0);
    const_cast<Entry *>(waiting_.deferred[0].entry)->claim.fetch_or(1u << 30); // no such packet
    const auto decidable = [this] { return Decidable(d_, &watch_, waiting_.deferred[0]); };
    uint64_t now = 5000;
    uint32_t acked = 0;
    watch_.Observe(now);
    while (!decidable() && now < 100000) {
        now += 20;
        if (now % 900 < 20) {
            d_.SetAcked(owner_.member, 0, ++acked);
        }
        watch_.Observe(now);
    }
    EXPECT_EQ(now, 15000u);
    EXPECT_GT(acked, 5u);
    d_.SetAcked(owner_.member, 0, ++acked);
    watch_.Observe(now + 20);
    waiting_.deferred.clear();
    GANG_OK(waiting_.Send(waiting_.Encode({0})));
    EXPECT_EQ(waiting_.Kinds(), "l") << "it is sent in full, and does not wait again";
    EXPECT_TRUE(waiting_.deferred.empty());
}

TEST_F(Stall, Invariant4_WhoStallsAgainAndAgainIsNotWaitedForAnyMore) {
    owner_.EncodeAll();
    uint64_t now = 0;
    uint32_t acked = 0;
    for (uint32_t stalls = 1; stalls <= StallWatch::kMuchMore; stalls++) {
        watch_.Wait(owner_.member, 0);
        watch_.Observe(now += 20);
        watch_.Wait(owner_.member, 0);
        watch_.Observe(now += 20);
        watch_.Observe(now += 1000);
        EXPECT_TRUE(watch_.Stalled(owner_.member, 0));
        d_.SetAcked(owner_.member, 0, ++acked); // before the page is sent again
        watch_.Observe(now += 20);
        EXPECT_EQ(watch_.Stalled(owner_.member, 0), stalls == StallWatch::kMuchMore);
    }
}

TEST_F(Stall, Invariant5_AMembersStateHidesNoOwnerThatDoesNotMove) {
    uint32_t last = gang_.AddMember();
    std::unique_ptr<Encoder> encoder;
    GANG_OK(Encoder::Create(&d_, nullptr, last, 0, kRaw, &encoder));
    const uint64_t offset = 0;
    EncodedPacket packet;
    GANG_OK(encoder->Encode("pc.ram", nullptr, owner_.source.data(), &offset, 1, IsZero, nullptr,
                            &packet));
    for (uint32_t hidden : {owner_.member, waiting_.member}) {
        d_.SetMemberState(hidden, MemberState::kFree);
    }
    watch_.Observe(0);
    EXPECT_TRUE(waiting_.Encode({0}).empty());
    watch_.Observe(1);
    watch_.Observe(1001);
    EXPECT_TRUE(watch_.Stalled(last, 0));
    EXPECT_TRUE(Decidable(d_, &watch_, waiting_.deferred[0]));
}

} // namespace
} // namespace gang
