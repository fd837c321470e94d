// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Several members, one content: claim, publish, confirm, reference, defer, and
// what becomes of pages that are written meanwhile and of members that die.

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

class Sharing : public testing::Test {
  protected:
    Sharing() : gang_(1024, 4096), d_(*gang_.directory) {}
    ~Sharing() override { hook = nullptr; }

    Gang gang_;
    Directory &d_;

    // Runs while the encoder hashes: is_zero sees each page right before.
    static inline std::function<void(const uint8_t *)> hook;
    static bool Hook(const void *page, size_t size) {
        hook(static_cast<const uint8_t *>(page));
        return IsZero(page, size);
    }
};

TEST_F(Sharing, Invariant2_ContentInFlightIsDeferredAndReferencedOnceConfirmed) {
    TestVm a(gang_, 1, kRaw), b(gang_, 1, kRaw);
    a.Fill({7});
    b.Fill({7});
    a.Scan();
    b.Scan();
    GANG_OK(a.Deliver(a.EncodeAll()));
    EXPECT_EQ(a.Kinds(), "p");

    EXPECT_TRUE(b.EncodeAll().empty()) << "sent though the owner has no acknowledgement";
    EXPECT_TRUE(b.packet.empty());
    EXPECT_EQ(b.packet.deferred_pages, 1u);
    ASSERT_EQ(b.deferred.size(), 1u);
    EXPECT_EQ(b.deferred[0].block, b.Cookie());
    EXPECT_EQ(b.deferred[0].offset, 0u);
    EXPECT_FALSE(d_.Confirmed(b.deferred[0].entry->claim.load()));

    a.Ack();
    EXPECT_TRUE(d_.Confirmed(b.deferred[0].entry->claim.load()));
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds(), "r");
    EXPECT_TRUE(b.Identical());
}

TEST_F(Sharing, Invariant4_InTheLastRoundNothingIsDeferred) {
    TestVm a(gang_, 1, kRaw), b(gang_, 1, kRaw);
    a.Fill({7});
    b.Fill({7});
    a.Scan();
    b.Scan();
    a.EncodeAll(); // never arrives
    GANG_OK(b.Send(b.EncodeAll(false)));
    EXPECT_EQ(b.Kinds(), "l");
    EXPECT_TRUE(b.Identical());
    EXPECT_TRUE(b.deferred.empty());
}

TEST_F(Sharing, DeferredPagesLeaveTheRestOfThePacketRight) {
    TestVm a(gang_, 3, kZstd), b(gang_, 7, kZstd);
    a.Fill({7, 8, 9});
    b.Fill({7, 1, 8, 0, 2, 3, 9});
    a.Scan();
    b.Scan();
    GANG_OK(a.Deliver(a.EncodeAll()));
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds(), "lzll");
    EXPECT_EQ(b.packet.deferred_pages, 3u);
    a.Ack();
    GANG_OK(b.Send(b.Encode({0, 2, 6})));
    EXPECT_EQ(b.Kinds(), "rrr");
    EXPECT_TRUE(b.Identical());
}

TEST_F(Sharing, AMemberWaitsForItsOwnPageInFlightToo) {
    TestVm a(gang_, 4, kRaw);
    a.Fill({7, 7, 7, 7});
    a.Scan();
    GANG_OK(a.Send(a.EncodeAll()));
    EXPECT_EQ(a.Kinds(), "p");
    EXPECT_EQ(a.deferred.size(), 3u);
    GANG_OK(a.Send(a.Encode({1, 2, 3})));
    EXPECT_EQ(a.Kinds(), "rrr");
    EXPECT_TRUE(a.Identical());
}

TEST_F(Sharing, Invariant3_APageWrittenBetweenHashAndCopyIsNotPublished) {
    TestVm a(gang_, 2, kRaw), b(gang_, 1, kRaw);
    a.Fill({7, 8});
    b.Fill({7});
    a.Scan();
    b.Scan();
    // The guest writes page 0 after it was hashed, when page 1's turn comes.
    hook = [&](const uint8_t *page) {
        if (page == a.source.page(1)) {
            a.source.page(0)[100] ^= 1;
        }
    };
    GANG_OK(a.Send(a.Encode({0, 1}, true, Hook)));
    EXPECT_EQ(a.Kinds(), "ll");
    EXPECT_EQ(gang_.store->slots_used(), 0u);
    EXPECT_TRUE(a.Identical());
    // Nobody is made to wait for what was not published.
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds(), "p");
}

TEST_F(Sharing, Invariant3_APublishedPageIsSentAsItWasCopiedWhateverTheGuestWrites) {
    for (const EncoderOptions &options : {kRaw, kZstd}) {
        Gang gang(1024, 4096);
        TestVm a(gang, 2, options), b(gang, 1, options);
        a.Fill({7, 8});
        b.Fill({7});
        a.Scan();
        b.Scan();
        // With raw payloads pages are read again when they go to the socket.
        GANG_OK(a.encoder->Encode("pc.ram", &a, a.source.data(), a.source.offsets().data(), 2,
                                  IsZero, nullptr, &a.packet));
        FillPage(a.source.page(0), 99);
        GANG_OK(a.Send(Flatten(a.packet)));
        EXPECT_EQ(a.Kinds(), "pl");
        GANG_OK(b.Send(b.EncodeAll()));
        EXPECT_EQ(b.Kinds(), "r");
        EXPECT_TRUE(b.Identical());
        FillPage(a.source.page(0), 7); // the source page as it was when copied
        EXPECT_TRUE(a.Identical());
    }
}

TEST_F(Sharing, Invariant1_AReferencedPageWrittenSinceItsHashIsDirtyAndComesAgain) {
    TestVm a(gang_, 1, kRaw), b(gang_, 2, kRaw);
    a.Fill({7});
    b.Fill({7, 5});
    a.Scan();
    b.Scan();
    GANG_OK(a.Send(a.EncodeAll()));
    hook = [&](const uint8_t *page) {
        if (page == b.source.page(1)) {
            FillPage(b.source.page(0), 6);
        }
    };
    GANG_OK(b.Send(b.Encode({0, 1}, true, Hook)));
    EXPECT_EQ(b.Kinds(), "rl");
    EXPECT_FALSE(b.Identical()); // as any precopy round
    GANG_OK(b.Send(b.Encode({0})));
    EXPECT_TRUE(b.Identical());
}

TEST_F(Sharing, ALostRaceForAClaimBecomesAReferenceOrAWaitNeverASecondCopy) {
    for (bool confirmed : {false, true}) {
        uint64_t content = confirmed ? 17 : 7;
        TestVm a(gang_, 2, kRaw), b(gang_, 1, kRaw);
        a.Fill({content, 100 + content});
        b.Fill({content});
        a.Scan();
        b.Scan();
        uint64_t used = gang_.store->slots_used();
        // b publishes while a, having hashed, has not yet decided.
        hook = [&](const uint8_t *page) {
            if (page == a.source.page(1)) {
                ASSERT_TRUE(b.Deliver(b.EncodeAll()).ok());
                if (confirmed) {
                    b.Ack();
                }
            }
        };
        GANG_OK(a.Send(a.Encode({0, 1}, true, Hook)));
        EXPECT_EQ(a.Kinds(), confirmed ? "rl" : "l");
        EXPECT_EQ(a.deferred.size(), confirmed ? 0u : 1u);
        EXPECT_EQ(gang_.store->slots_used(), used + 1);
        b.Ack();
    }
}

TEST_F(Sharing, Invariant4_WhatADeadMemberHadInFlightIsPublishedByAnother) {
    TestVm a(gang_, 2, kRaw), b(gang_, 2, kRaw), c(gang_, 2, kRaw);
    for (TestVm *vm : {&a, &b, &c}) {
        vm->Fill({7, 8});
        vm->Scan();
    }
    a.EncodeAll(); // lost with its sender
    EXPECT_TRUE(b.EncodeAll().empty());
    d_.SetMemberState(a.member, MemberState::kDead);
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds(), "pp");
    EXPECT_EQ(d_.stat(b.member, Stat::kTakeovers), 2u);
    GANG_OK(c.Send(c.EncodeAll()));
    EXPECT_EQ(c.Kinds(), "rr");
    EXPECT_TRUE(b.Identical());
    EXPECT_TRUE(c.Identical());
}

// The destination may have stored it: the acknowledgement was lost, not the page.
TEST_F(Sharing, Invariant4_TakingOverWhatTheDestinationHoldsAlreadyIsHarmless) {
    TestVm a(gang_, 1, kRaw), b(gang_, 1, kRaw);
    a.Fill({7});
    b.Fill({7});
    a.Scan();
    b.Scan();
    GANG_OK(a.Deliver(a.EncodeAll()));
    d_.SetMemberState(a.member, MemberState::kDead);
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds(), "p");
    EXPECT_EQ(gang_.store->slots_used(), 2u);
    EXPECT_TRUE(b.Identical());
}

TEST_F(Sharing, ContentThatTheScanDidNotSeeIsSharedFromItsThirdSending) {
    TestVm a(gang_, 1, kRaw), b(gang_, 1, kRaw), c(gang_, 1, kRaw);
    std::string kinds;
    for (TestVm *vm : {&a, &b, &c}) {
        vm->Fill({7});
        GANG_OK(vm->Send(vm->EncodeAll()));
        kinds += vm->Kinds();
        EXPECT_TRUE(vm->Identical());
    }
    EXPECT_EQ(kinds, "lpr");
}

TEST_F(Sharing, TwoChannelsOfOneMemberConfirmIndependently) {
    TestVm a(gang_, 1, kRaw), b(gang_, 1, kRaw);
    std::unique_ptr<Encoder> second;
    GANG_OK(Encoder::Create(&d_, nullptr, a.member, 1, kRaw, &second));
    a.Fill({7});
    b.Fill({7});
    a.Scan();
    b.Scan();
    uint64_t offset = 0;
    GANG_OK(second->Encode("pc.ram", &a, a.source.data(), &offset, 1, IsZero, nullptr, &a.packet));
    GANG_OK(a.Deliver(Flatten(a.packet)));
    d_.SetAcked(a.member, 0, 5);
    EXPECT_TRUE(b.EncodeAll().empty());
    d_.SetAcked(a.member, 1, 1);
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds(), "r");
}

} // namespace
} // namespace gang
