// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Pages that are like others: which are found, how they are coded, and that only
// confirmed pages are coded against (invariant 2).

#include <unistd.h>
#include <zstd.h>

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

EncoderOptions With(PayloadEncoding encoding, Dedup dedup) {
    EncoderOptions options = encoding == PayloadEncoding::kZstd ? kZstd : kRaw;
    options.dedup = dedup;
    return options;
}

class Similar : public testing::TestWithParam<PayloadEncoding> {
  protected:
    Similar() : gang_(1024, 4096, 1024) {}
    // A VM with these contents; b's are like a's.
    std::unique_ptr<TestVm> Vm(const std::vector<uint64_t> &contents, Dedup dedup) {
        auto vm = std::make_unique<TestVm>(gang_, contents.size(), With(GetParam(), dedup));
        vm->encoder->set_peers({&cache_, -1});
        vm->Fill(contents);
        vm->Scan();
        return vm;
    }
    static std::vector<uint64_t> Families(uint64_t variant, size_t count = 8) {
        std::vector<uint64_t> contents;
        for (size_t i = 0; i < count; i++) {
            contents.push_back(SimilarContent(i, variant));
        }
        return contents;
    }
    uint64_t Stat(const TestVm &vm, gang::Stat stat) {
        return gang_.directory->stat(vm.member, stat);
    }

    Gang gang_;
    PageCache cache_{64 * kPageSize};
};

INSTANTIATE_TEST_SUITE_P(Payload, Similar,
                         testing::Values(PayloadEncoding::kRaw, PayloadEncoding::kZstd),
                         [](const auto &value) {
                             return value.param == PayloadEncoding::kRaw ? "raw" : "zstd";
                         });

TEST_P(Similar, APageThatOthersAreLikeIsPublishedAndTheyArePatchesOfIt) {
    auto a = Vm(Families(0), Dedup::kDelta), b = Vm(Families(2), Dedup::kDelta);
    GANG_OK(a->Send(a->EncodeAll()));
    EXPECT_EQ(a->Kinds(), "pppppppp");
    GANG_OK(b->Send(b->EncodeAll()));
    EXPECT_EQ(b->Kinds(), "tttttttt"); // two blocks of 64 bytes each
    EXPECT_TRUE(a->Identical() && b->Identical());
    if (GetParam() == PayloadEncoding::kRaw) {
        EXPECT_EQ(b->packet.payload_size, 8u * 2 * 64);
    }
}

TEST_P(Similar, APageWithMoreThatDiffersIsADelta) {
    auto a = Vm(Families(0), Dedup::kDelta), b = Vm(Families(12), Dedup::kDelta);
    GANG_OK(a->Send(a->EncodeAll()));
    GANG_OK(b->Send(b->EncodeAll()));
    EXPECT_EQ(b->Kinds(), "dddddddd");
    EXPECT_TRUE(b->Identical());
    EXPECT_LT(b->packet.payload_size, 8u * 300); // 12 bytes of each differ
    EXPECT_EQ(Stat(*b, gang::Stat::kDeltaPages), 8u);
}

// Of a real packet, with other bytes in place of its delta frame.
TEST_P(Similar, Invariant5_ADeltaThatIsNotOneFrameIsRefused) {
    auto a = Vm(Families(0), Dedup::kDelta), b = Vm(Families(12), Dedup::kDelta);
    GANG_OK(a->Send(a->EncodeAll()));
    const Bytes sent = b->EncodeAll();
    PacketHeader header;
    GANG_OK(ParsePacketHeader(sent.data(), &header));
    ASSERT_EQ(header.pages, 8u);
    ASSERT_EQ(header.payload_size, header.delta_size);
    const auto try_frames = [&](const Bytes &frames) {
        Bytes packet(sent.begin(), sent.end() - header.delta_size);
        PacketHeader h = header;
        h.payload_size = h.delta_size = static_cast<uint32_t>(frames.size());
        const uint8_t *metadata = packet.data() + kPacketHeaderSize;
        h.check = gang_.store->hasher().Check(metadata, h.metadata_size, frames.data(),
                                              frames.size());
        StorePacketHeader(h, packet.data());
        packet.insert(packet.end(), frames.begin(), frames.end());
        EXPECT_TRUE(Decoder::Create(gang_.store.get(), &b->decoder).ok());
        return b->Deliver(packet);
    };
    const auto frame = [&](size_t first, size_t count) {
        Bytes out(ZSTD_compressBound(count * kPageSize));
        out.resize(ZSTD_compress(out.data(), out.size(), b->source.page(first), count * kPageSize,
                                 1));
        return out;
    };
    const auto join = [](Bytes first, const Bytes &second) {
        first.insert(first.end(), second.begin(), second.end());
        return first;
    };
    const Bytes skipped = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 'e', 'v', 'i', 'l'};
    const Bytes own(sent.end() - header.delta_size, sent.end()), whole = frame(0, 8);
    for (const Bytes &refused : {join(frame(0, 4), frame(4, 4)), join(own, skipped),
                                 join(skipped, own), join(whole, skipped), skipped,
                                 Bytes(own.begin(), own.end() - 1), join(own, {0})}) {
        EXPECT_EQ(try_frames(refused).code(), Code::kInvalid);
        EXPECT_FALSE(b->Identical());
    }
    GANG_OK(try_frames(whole));
    EXPECT_TRUE(b->Identical());
    GANG_OK(try_frames(own));
}

TEST_P(Similar, SubpageSharesBlocksOnlyAndPageNothing) {
    auto a = Vm(Families(0), Dedup::kSubpage), b = Vm(Families(12), Dedup::kSubpage),
         c = Vm(Families(13), Dedup::kPage);
    GANG_OK(a->Send(a->EncodeAll()));
    GANG_OK(b->Send(b->EncodeAll()));
    EXPECT_EQ(b->Kinds(), "tttttttt");
    GANG_OK(c->Send(c->EncodeAll()));
    EXPECT_EQ(c->Kinds(), "llllllll");
    EXPECT_TRUE(b->Identical() && c->Identical());
}

TEST_P(Similar, Invariant2_ABaseThatIsUnderWayIsWaitedForOrNotUsed) {
    auto a = Vm(Families(0), Dedup::kDelta), b = Vm(Families(2), Dedup::kDelta);
    Bytes first = a->EncodeAll();
    EXPECT_TRUE(b->EncodeAll().empty());
    ASSERT_EQ(b->deferred.size(), 8u);
    StallWatch watch(gang_.directory.get(), 1000);
    EXPECT_FALSE(Decidable(*gang_.directory, &watch, b->deferred[0]));
    GANG_OK(b->Deliver(b->EncodeAll(false))); // the last round: nothing is deferred
    EXPECT_EQ(b->Kinds(), "llllllll");
    GANG_OK(a->Send(first));
    EXPECT_TRUE(Decidable(*gang_.directory, &watch, b->deferred[0]));
    GANG_OK(b->Deliver(b->EncodeAll())); // for the second time, so kept as well
    EXPECT_EQ(b->Kinds(), "TTTTTTTT");
    EXPECT_TRUE(b->Identical());
}

TEST_P(Similar, Invariant4_ABaseThatADeadMemberLeftUnconfirmedIsReplaced) {
    auto a = Vm(Families(0), Dedup::kDelta), b = Vm(Families(2), Dedup::kDelta),
         c = Vm(Families(3), Dedup::kDelta);
    a->EncodeAll(); // never arrives
    EXPECT_TRUE(b->EncodeAll().empty());
    StallWatch watch(gang_.directory.get(), 1000);
    gang_.directory->SetMemberState(a->member, MemberState::kDead);
    EXPECT_TRUE(Decidable(*gang_.directory, &watch, b->deferred[0]));
    GANG_OK(b->Send(b->EncodeAll()));
    EXPECT_EQ(b->Kinds(), "pppppppp");
    GANG_OK(c->Send(c->EncodeAll()));
    EXPECT_EQ(c->Kinds(), "tttttttt");
    EXPECT_TRUE(b->Identical() && c->Identical());
}

TEST_P(Similar, Invariant8_AFullMirrorOnlyMeansFewerDeltas) {
    Gang small(1024, 4096, 3);
    TestVm a(small, 8, With(GetParam(), Dedup::kDelta)), b(small, 8, With(GetParam(), Dedup::kDelta));
    a.Fill(Families(0));
    b.Fill(Families(2));
    a.Scan();
    b.Scan();
    GANG_OK(a.Send(a.EncodeAll()));
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds().substr(0, 3), "ttt");
    EXPECT_EQ(b.Kinds().find('t', 3), std::string::npos);
    EXPECT_EQ(small.directory->mirror_used(), 3u);
    EXPECT_TRUE(a.Identical() && b.Identical());
}

TEST_P(Similar, APageSentAgainIsCodedAgainstItsOwnLastVersion) {
    auto a = Vm(Families(0), Dedup::kDelta);
    a->encoder->set_resending(true);
    GANG_OK(a->Send(a->EncodeAll()));
    for (uint64_t version : {2u, 13u, 13u, 5u}) {
        a->Fill(Families(version));
        GANG_OK(a->Send(a->EncodeAll()));
        EXPECT_TRUE(a->Identical());
        EXPECT_LT(a->packet.payload_size, 8u * 1500);
    }
    EXPECT_EQ(Stat(*a, gang::Stat::kOwnPages), 4u * 8);
}

// Everything that changes the destination's page without going through the
// cache must take the page out of it.
TEST_P(Similar, Invariant1_ALastVersionThatIsNoneAnyMoreIsNotUsed) {
    auto other = Vm({500, 501}, Dedup::kDelta);
    gang_.directory->Count(gang_.directory->hasher()(other->source.page(0), kPageSize));
    GANG_OK(other->Send(other->EncodeAll()));
    auto a = Vm(Families(0, 4), Dedup::kDelta);
    a->encoder->set_resending(true);
    GANG_OK(a->Send(a->EncodeAll()));
    a->Fill({0, 500, 0, 500}); // zero pages and references
    GANG_OK(a->Send(a->EncodeAll()));
    EXPECT_EQ(a->Kinds(), "zrzr");
    a->Fill(Families(2, 4));
    GANG_OK(a->Send(a->EncodeAll()));
    EXPECT_TRUE(a->Identical());
    EXPECT_EQ(Stat(*a, gang::Stat::kOwnPages), 0u);
}

TEST_P(Similar, PublishedPagesMayThemselvesBeCodedAgainstOthers) {
    auto a = Vm(Families(0), Dedup::kDelta);
    std::vector<uint64_t> twice = Families(2, 4);
    twice.insert(twice.end(), twice.begin(), twice.end());
    auto b = Vm(Families(3, 4), Dedup::kDelta), c = Vm(twice, Dedup::kDelta);
    GANG_OK(a->Send(a->EncodeAll()));
    GANG_OK(c->Send(c->Encode({0, 1, 2, 3})));
    EXPECT_EQ(c->Kinds(), "TTTT");
    GANG_OK(c->Send(c->Encode({4, 5, 6, 7})));
    EXPECT_EQ(c->Kinds(), "rrrr");
    EXPECT_TRUE(c->Identical());
}

TEST_P(Similar, Invariant3_AWrongByteInTheMirrorFailsTheMemberThatUsesIt) {
    auto a = Vm(Families(0), Dedup::kDelta), b = Vm(Families(2), Dedup::kDelta);
    GANG_OK(a->Send(a->EncodeAll()));
    // As a compromised member would: in all mirrored pages.
    for (uint32_t slot = 0; slot < 8; slot++) {
        // Through the descriptor: the mapping cannot be written.
        const uint8_t wrong = gang_.directory->mirror(slot)[4095] ^ 1;
        const uint64_t at = gang_.directory->header().mirror_off + slot * kPageSize + 4095;
        ASSERT_EQ(pwrite(gang_.directory_fd.get(), &wrong, 1, static_cast<off_t>(at)), 1);
    }
    Status status = b->Send(b->EncodeAll());
    EXPECT_TRUE(status.ok() ? b->Identical() : status.code() == Code::kCorrupt)
        << status.message();
}

TEST(Features, PagesThatShareMostBlocksShareFeatures) {
    uint8_t a[kPageSize], b[kPageSize];
    size_t shared = 0;
    for (uint64_t family = 0; family < 100; family++) {
        FillPage(a, SimilarContent(family, 0));
        FillPage(b, SimilarContent(family, 2));
        Features x = FeaturesOf(a), y = FeaturesOf(b);
        for (size_t i = 0; i < kFeatures; i++) {
            shared += x[i] == y[i];
        }
        FillPage(b, SimilarContent(family + 1, 0));
        EXPECT_NE(FeaturesOf(b), x);
    }
    EXPECT_GT(shared, 100 * kFeatures * 8 / 10);
}

TEST(Features, EqualBlocksAreThoseThatAreEqual) {
    uint8_t a[kPageSize], b[kPageSize];
    FillPage(a, 1);
    memcpy(b, a, kPageSize);
    uint64_t mask;
    EXPECT_EQ(EqualBlocks(a, b, &mask), 64u);
    EXPECT_EQ(mask, 0u);
    b[0]++;
    b[63 * 64 + 63]++;
    EXPECT_EQ(EqualBlocks(a, b, &mask), 62u);
    EXPECT_EQ(mask, uint64_t{1} << 63 | 1);
}

TEST_P(Similar, RunsOfReferencesOfClonesWithOneLayoutCostAtMostThreeBytesAPage) {
    std::vector<uint64_t> contents;
    for (uint64_t i = 1; i <= 512; i++) {
        contents.push_back(i % 5 == 0 ? 0 : i);
    }
    auto a = Vm(contents, Dedup::kDelta), b = Vm(contents, Dedup::kDelta);
    GANG_OK(a->Send(a->EncodeAll()));
    GANG_OK(b->Send(b->EncodeAll()));
    EXPECT_LE(b->packet.header_size, kPacketHeaderSize + 3 * 512u);
    EXPECT_TRUE(b->Identical());
}

// Page caches of clones that were filled in another order: neighbours at the
// source are no neighbours in the store.
TEST_P(Similar, ScatteredReferencesCostAtMostThreeBytesAPage) {
    std::vector<uint64_t> contents, shuffled;
    for (uint64_t i = 1; i <= 512; i++) {
        contents.push_back(i);
        shuffled.push_back((i * 167) % 512 + 1);
    }
    auto a = Vm(contents, Dedup::kDelta), b = Vm(shuffled, Dedup::kDelta);
    GANG_OK(a->Send(a->EncodeAll()));
    GANG_OK(b->Send(b->EncodeAll()));
    EXPECT_EQ(b->Kinds(), std::string(512, 'r'));
    EXPECT_LE(b->packet.header_size, kPacketHeaderSize + 3 * 512u);
    EXPECT_TRUE(b->Identical());
}

} // namespace
} // namespace gang
