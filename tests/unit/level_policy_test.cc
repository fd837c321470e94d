// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The level follows the link and the CPU; and a stream whose level changes is
// still one stream.

#include "level_policy.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kBytes = 512 << 10;

// So many packets; each takes this long to make and to send.
void Send(LevelPolicy *policy, int packets, uint64_t work_ms, uint64_t wait_ms,
          const LinkState &link = {}, uint64_t coded = kBytes / 3) {
    for (int i = 0; i < packets; i++) {
        const bool raw = policy->level() == LevelPolicy::kRaw;
        policy->Packet(work_ms * kMs, wait_ms * kMs, kBytes, raw ? kBytes : coded, link);
    }
}

TEST(LevelPolicy, BeginsWithAFastLevel) { EXPECT_EQ(LevelPolicy().level(), 1); }

TEST(LevelPolicy, ASlowLinkGetsTheHighestLevel) {
    LevelPolicy policy;
    Send(&policy, 500, 2, 40);
    EXPECT_EQ(policy.level(), 5);
}

TEST(LevelPolicy, WhereTheCpuIsShortNothingIsCompressed) {
    LevelPolicy policy;
    Send(&policy, 500, 10, 0);
    EXPECT_EQ(policy.level(), LevelPolicy::kRaw);
}

TEST(LevelPolicy, ItComesBackWhenTheLinkGetsSlow) {
    LevelPolicy policy;
    Send(&policy, 500, 10, 0);
    Send(&policy, 500, 1, 30);
    EXPECT_EQ(policy.level(), 5);
}

// The link as packets of a fast or slow one find it, whose level they follow.
void SendOver(LevelPolicy *policy, int packets, bool slow) {
    for (int i = 0; i < packets; i++) {
        const bool raw = policy->level() == LevelPolicy::kRaw;
        policy->Packet(2 * kMs, 1 * kMs, kBytes, raw ? kBytes : kBytes / 3,
                       {true, slow && raw ? uint64_t{1} << 20 : 0, 0});
    }
}

// A fast link shows itself in the first packets, a slow one too, and then is not
// filled just because it is idle.
TEST(LevelPolicy, AFewRawPacketsShowWhetherTheLinkIsFast) {
    LevelPolicy fast, slow;
    SendOver(&fast, 10, false);
    EXPECT_EQ(fast.level(), LevelPolicy::kRaw);
    SendOver(&fast, 1000, false);
    EXPECT_EQ(fast.level(), LevelPolicy::kRaw);
    SendOver(&slow, 20, true);
    EXPECT_EQ(slow.level(), 1);
    SendOver(&slow, 500, true);
    EXPECT_EQ(slow.level(), 1);
}

// However little of each packet needs compressing, the trial ends.
TEST(LevelPolicy, ATrialOfSmallPacketsEndsToo) {
    LevelPolicy policy;
    uint64_t unsent = 0, raw = 0;
    for (int i = 0; i < 100; i++) {
        const bool is_raw = policy.level() == LevelPolicy::kRaw;
        policy.Packet(kMs, kMs, 40 << 10, is_raw ? 40 << 10 : 12 << 10, {true, unsent, 0});
        unsent += is_raw ? 40 << 10 : 0;
        raw += is_raw;
    }
    EXPECT_GE(policy.level(), 1);
    EXPECT_LT(raw, 12);
}

TEST(LevelPolicy, FromRawItGoesToTheLevelThatPays) {
    LevelPolicy policy;
    SendOver(&policy, 100, false);
    for (int i = 0; i < 200 && policy.level() == LevelPolicy::kRaw; i++) {
        policy.Packet(2 * kMs, 1 * kMs, kBytes, kBytes, {true, 1 << 20, 0});
    }
    EXPECT_EQ(policy.level(), 1);
}

// What a busy host leaves unsent is no reason to compress, as long as raw packets
// arrive faster than compressed ones could be made.
void SendBusy(LevelPolicy *policy, int packets, uint64_t raw_ms, uint64_t *acked) {
    for (int i = 0; i < packets; i++) {
        const bool raw = policy->level() == LevelPolicy::kRaw;
        *acked += raw ? kBytes : kBytes / 3;
        if (!raw) {
            policy->Compressed(kBytes, 10 * kMs);
        }
        policy->Packet(2 * kMs, raw ? raw_ms * kMs : 10 * kMs, kBytes, raw ? kBytes : kBytes / 3,
                       {true, raw ? uint64_t{1} << 20 : 0, 0, *acked});
    }
}

TEST(LevelPolicy, RawPacketsThatArriveFasterThanZstdIsStayRaw) {
    LevelPolicy policy;
    uint64_t acked = 1;
    SendBusy(&policy, 300, 4, &acked); // 6 ms a raw packet, 10 to compress one
    EXPECT_EQ(policy.level(), LevelPolicy::kRaw);
    SendBusy(&policy, 300, 30, &acked);
    EXPECT_GE(policy.level(), 1);
}

TEST(LevelPolicy, ALinkThatIsSlowerThanZstdGetsNoRawPackets) {
    LevelPolicy policy;
    uint64_t acked = 1;
    SendBusy(&policy, 40, 30, &acked);
    EXPECT_EQ(policy.level(), 1);
}

// A link that carries `per_ms`, and a channel that makes a packet in 10 ms; what it
// has not sent by then is in the socket.
void SendThrough(LevelPolicy *policy, int packets, uint64_t per_ms) {
    uint64_t unsent = 0, acked = 1;
    for (int i = 0; i < packets; i++) {
        const bool raw = policy->level() == LevelPolicy::kRaw;
        const uint64_t coded = raw ? kBytes : kBytes / 3, wait = raw ? 1 : 8;
        const uint64_t sent = std::min(unsent, (2 + wait) * per_ms);
        unsent -= sent;
        acked += sent;
        if (!raw) {
            policy->Compressed(kBytes, 10 * kMs);
        }
        policy->Packet(2 * kMs, wait * kMs, kBytes, coded, {true, unsent, 0, acked});
        unsent += coded;
    }
}

// The trial fills the socket, also where level 1 leaves the link idle for a third of
// the time: nothing that would pay for a higher level.
TEST(LevelPolicy, WhatTheTrialLeftUnsentIsNoReasonForAHigherLevel) {
    for (int packets : {20, 40, 60, 80, 100}) {
        LevelPolicy policy;
        SendThrough(&policy, packets, kBytes / 20);
        EXPECT_EQ(policy.level(), 1) << packets;
    }
    LevelPolicy policy;
    SendThrough(&policy, 500, kBytes / 60);
    EXPECT_GE(policy.level(), 3);
}

// A channel of which nothing arrives during its trial, and then all of it, as fast as
// given.  Whether it is at raw again as soon as that has gone.
bool RawAgain(uint64_t arrives_per_ms) {
    LevelPolicy policy;
    uint64_t acked = 1;
    for (bool raw = false; !raw;) {
        raw = policy.level() == LevelPolicy::kRaw;
        if (!raw) {
            policy.Compressed(kBytes, 10 * kMs);
        }
        policy.Packet(2 * kMs, 1 * kMs, kBytes, raw ? kBytes : kBytes / 3,
                      {true, raw ? uint64_t{1} << 20 : 0, 0, acked});
    }
    EXPECT_EQ(policy.level(), 1);
    const uint64_t all = acked + 8 * kBytes;
    for (int i = 0; i < 40 && policy.level() != LevelPolicy::kRaw; i++) {
        policy.Compressed(kBytes, 10 * kMs);
        acked = std::min<uint64_t>(all, acked + 3 * arrives_per_ms);
        policy.Packet(2 * kMs, 1 * kMs, kBytes, kBytes / 3, {true, all - acked, 0, acked});
    }
    return policy.level() == LevelPolicy::kRaw;
}

TEST(LevelPolicy, AReceiverThatHadNoCpuForAMomentIsNoSlowLink) {
    EXPECT_TRUE(RawAgain(kBytes)); // 1 ms a raw packet, 10 to compress one
    EXPECT_FALSE(RawAgain(kBytes / 5));
}

TEST(LevelPolicy, WhatDoesNotGetSmallerIsSentRawWhileTheTrialIsUnsent) {
    LevelPolicy policy;
    uint64_t acked = 1;
    for (int i = 0; i < 40; i++) { // the trial, and packets that wait behind it
        const bool raw = policy.level() == LevelPolicy::kRaw;
        policy.Packet(2 * kMs, 8 * kMs, kBytes, raw && i < 12 ? kBytes : kBytes - 1,
                      {true, uint64_t{2} << 20, 0, acked += 1000});
    }
    EXPECT_EQ(policy.level(), LevelPolicy::kRaw);
}

// Whatever the trial has found: that forbids raw packets for a while, nothing else.
TEST(LevelPolicy, ALevelTakenForABacklogIsLeftWhenThatIsGone) {
    LevelPolicy policy;
    SendOver(&policy, 20, true);
    ASSERT_EQ(policy.level(), 1);
    for (int i = 0; i < 200 && policy.level() < 3; i++) {
        policy.Packet(2 * kMs, 8 * kMs, kBytes, kBytes / 3, {true, uint64_t{1} << 20, 0});
    }
    ASSERT_EQ(policy.level(), 3);
    for (int i = 0; i < 100; i++) { // 20 windows
        policy.Packet(2 * kMs, 8 * kMs, kBytes, kBytes / 3, {true, 0, 0});
    }
    EXPECT_EQ(policy.level(), 1);
}

TEST(LevelPolicy, AHighLevelIsLeftWhenTheLinkIsSeldomWaitedFor) {
    LevelPolicy policy;
    Send(&policy, 500, 2, 40);
    ASSERT_EQ(policy.level(), 5);
    for (int i = 0; i < 1000; i++) { // one packet in eight finds something unsent
        Send(&policy, 1, 10, 1, {true, i % 8 ? 0 : uint64_t{1} << 20, 0});
    }
    EXPECT_EQ(policy.level(), 1);
}

// The kernel knows better than the clock what the wait was for.
TEST(LevelPolicy, AWaitInWhichTheLinkWasIdleIsNotForTheLink) {
    LevelPolicy policy;
    Send(&policy, 500, 2, 40, {true, 0, 0});
    EXPECT_EQ(policy.level(), LevelPolicy::kRaw);
    Send(&policy, 500, 10, 1, {true, 1 << 20, 0});
    EXPECT_EQ(policy.level(), 5);
}

TEST(LevelPolicy, AReceiverThatIsBehindIsNoSlowLink) {
    LevelPolicy policy;
    LinkState link{true, 1 << 20, 0};
    for (int i = 0; i < 300; i++) {
        link.receiver_us += 29000;
        policy.Packet(2 * kMs, 30 * kMs, kBytes, kBytes / 3, link);
    }
    EXPECT_EQ(policy.level(), LevelPolicy::kRaw);
}

TEST(LevelPolicy, BetweenTheTwoItStaysWhereItIs) {
    LevelPolicy policy;
    Send(&policy, 500, 6, 4);
    EXPECT_EQ(policy.level(), 1);
}

TEST(LevelPolicy, WhatDoesNotGetSmallerIsSentRawAndTriedAgain) {
    LevelPolicy policy;
    int tried = 0;
    for (int i = 0; i < 1000; i++) {
        tried += policy.level() != LevelPolicy::kRaw;
        const uint64_t coded = policy.level() == LevelPolicy::kRaw ? kBytes : kBytes + 100;
        policy.Packet(1 * kMs, 30 * kMs, kBytes, coded, {});
    }
    EXPECT_GT(tried, 5);
    EXPECT_LT(tried, 150);
    Send(&policy, 200, 1, 30);
    EXPECT_EQ(policy.level(), 5);
}

// A compressor whose level is changed at random, and the decoder that does not
// know: whatever the steps, every page arrives.
TEST(LevelPolicy, TheStreamGoesOnWhateverTheLevel) {
    Rng rng(TestSeed());
    Gang gang(64, 4096);
    TestVm vm(gang, nullptr, 48, kZstd);
    std::unique_ptr<Compressor> compressor;
    GANG_OK(Compressor::Create(1, &compressor));
    for (int packet = 0; packet < 200; packet++) {
        std::vector<iovec> pieces;
        const size_t pages = 1 + Below(rng, 48);
        for (size_t i = 0; i < pages; i++) {
            FillPage(vm.source.page(i), Below(rng, 60));
            pieces.push_back({vm.source.page(i), kPageSize});
        }
        static constexpr int kLevels[] = {-5, 1, 3, 5, 19};
        if (Below(rng, 3) == 0) {
            compressor->set_level(kLevels[Below(rng, 5)]);
        }
        Bytes payload(Compressor::Bound(pages));
        size_t size;
        GANG_OK(compressor->Stream(pieces.data(), pages, payload.data(), payload.size(), &size));
        payload.resize(size);
        Bytes metadata = {3, 'r', 'a', 'm'};
        uint8_t run[16], *end = run;
        *end++ = 2 | 15 << 4;
        if (pages < 16) {
            run[0] = static_cast<uint8_t>(2 | (pages - 1) << 4);
        } else {
            end = PutVarint(end, pages - 16);
        }
        *end++ = 0;
        metadata.insert(metadata.end(), run, end);
        PacketHeader h;
        h.metadata_size = static_cast<uint16_t>(metadata.size());
        h.payload_size = static_cast<uint32_t>(size);
        h.pages = static_cast<uint16_t>(pages);
        h.encoding = PayloadEncoding::kZstd;
        h.number = static_cast<uint32_t>(packet + 1);
        h.check = gang.store->hasher().Check(metadata.data(), metadata.size(), payload.data(), size);
        Bytes bytes(kPacketHeaderSize);
        StorePacketHeader(h, bytes.data());
        bytes.insert(bytes.end(), metadata.begin(), metadata.end());
        bytes.insert(bytes.end(), payload.begin(), payload.end());
        GANG_OK(vm.Deliver(bytes));
        ASSERT_EQ(memcmp(vm.source.data(), vm.destination.data(), pages * kPageSize), 0) << packet;
    }
}

} // namespace
} // namespace gang
