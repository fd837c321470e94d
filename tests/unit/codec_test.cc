// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Packets from encoder to decoder: every kind of page, both encodings, runs,
// changes of RAMBlock, limits.

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

class Codec : public testing::TestWithParam<PayloadEncoding> {
  protected:
    EncoderOptions options() const { return {GetParam(), 1}; }
};

INSTANTIATE_TEST_SUITE_P(Payload, Codec,
                         testing::Values(PayloadEncoding::kRaw, PayloadEncoding::kZstd),
                         [](const auto &value) {
                             return value.param == PayloadEncoding::kRaw ? "raw" : "zstd";
                         });

TEST_P(Codec, EveryKindOfPageArrives) {
    Gang gang(1024, 1024);
    TestVm a(gang, 8, options()), b(gang, 8, options());
    a.Fill({0, 11, 12, 13, 21, 22, 0, 14});
    b.Fill({22, 0, 31, 12, 13, 0, 32, 11});
    a.Scan();
    b.Scan();
    memset(a.destination.data(), 0xee, a.destination.bytes());
    memset(b.destination.data(), 0xee, b.destination.bytes());

    GANG_OK(a.Send(a.EncodeAll()));
    EXPECT_EQ(a.Kinds(), "zppplpzl");
    EXPECT_TRUE(a.Identical());
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds(), "rzlrrzlr");
    EXPECT_TRUE(b.Identical());

    Directory &d = *gang.directory;
    EXPECT_EQ(d.stat(a.member, Stat::kPublishedPages), 4u);
    EXPECT_EQ(d.stat(b.member, Stat::kReferencedPages), 4u);
    EXPECT_EQ(d.stat(b.member, Stat::kLiteralPages), 2u);
    EXPECT_EQ(d.stat(b.member, Stat::kZeroPages), 2u);
    EXPECT_EQ(gang.store->slots_used(), 4u);
    EXPECT_EQ(b.packet.zero_pages, 2u);
    EXPECT_EQ(b.packet.sent_pages, 6u);
}

TEST_P(Codec, WithoutADirectoryEverythingIsSentInFull) {
    Gang gang(1024, 1024);
    TestVm a(gang, nullptr, 4, options());
    a.Fill({1, 1, 0, 1});
    GANG_OK(a.Deliver(a.EncodeAll()));
    EXPECT_EQ(a.Kinds(), "llzl");
    EXPECT_TRUE(a.Identical());
    EXPECT_EQ(gang.store->slots_used(), 0u);
}

TEST_P(Codec, WithoutZeroDetectionZeroPagesAreContentLikeOthers) {
    Gang gang(1024, 1024);
    TestVm a(gang, 3, options());
    a.Fill({0, 5, 0});
    memset(a.destination.data(), 0xee, a.destination.bytes());
    GANG_OK(a.Send(a.Encode({0, 1, 2}, true, nullptr)));
    EXPECT_EQ(a.Kinds(), "llp"); // the second literal of one content is published
    EXPECT_TRUE(a.Identical());
}

TEST_P(Codec, PagesArriveWhateverTheirOrderAndGaps) {
    Gang gang(1024, 4096);
    TestVm a(gang, 1200, options());
    Rng rng(TestSeed());
    std::vector<uint64_t> contents(a.source.pages());
    for (uint64_t &content : contents) {
        content = Below(rng, 40);
    }
    a.Fill(contents);
    a.Scan();
    std::vector<size_t> order(a.source.pages());
    for (size_t i = 0; i < order.size(); i++) {
        order[i] = i;
    }
    std::shuffle(order.begin(), order.end(), rng);
    for (size_t at = 0; at < order.size();) {
        size_t n = std::min<size_t>(1 + Below(rng, 200), order.size() - at);
        std::vector<size_t> pages(order.begin() + static_cast<ptrdiff_t>(at),
                                  order.begin() + static_cast<ptrdiff_t>(at + n));
        GANG_OK(a.Send(a.Encode(pages, false)));
        at += n;
    }
    EXPECT_TRUE(a.Identical());
}

TEST_P(Codec, TheLargestPacketWithTheWorstDescriptionsArrives) {
    Gang gang(4096, 8192);
    TestVm a(gang, 2 * kMaxPacketPages, options());
    a.block = std::string(kMaxBlockId, 'x');
    std::vector<size_t> pages;
    for (size_t i = 0; i < kMaxPacketPages; i++) {
        // Far apart from one to the next, and no two neighbours of one kind.
        pages.push_back(i % 2 ? i : 2 * kMaxPacketPages - 1 - i);
        FillPage(a.source.page(pages[i]), i % 3);
    }
    GANG_OK(a.Send(a.Encode(pages, false)));
    EXPECT_TRUE(a.Identical());
}

TEST_P(Codec, ALongRunCostsAFewBytes) {
    Gang gang(4096, 8192);
    for (size_t run : {1u, 31u, 32u, 33u, 159u, 160u, 161u, 1024u}) {
        TestVm a(gang, run, options());
        GANG_OK(a.Send(a.EncodeAll()));
        EXPECT_EQ(a.Kinds(), std::string(run, 'z'));
        // id, tag, length, page
        EXPECT_LE(a.packet.header_size, kPacketHeaderSize + 1 + 6 + 1 + 2 + 1) << run;
        EXPECT_EQ(a.packet.payload_size, 0u);
    }
}

TEST_P(Codec, RunsOfReferencesToNeighbouringSlotsCostAFewBytes) {
    Gang gang(4096, 8192);
    TestVm a(gang, 64, options()), b(gang, 64, options());
    std::vector<uint64_t> contents;
    for (uint64_t i = 1; i <= 64; i++) {
        contents.push_back(i);
    }
    a.Fill(contents);
    b.Fill(contents);
    a.Scan();
    b.Scan();
    GANG_OK(a.Send(a.EncodeAll()));
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(b.Kinds(), std::string(64, 'r'));
    EXPECT_TRUE(b.Identical());
    EXPECT_LE(b.packet.header_size, kPacketHeaderSize + 1 + 6 + 4);
    EXPECT_EQ(b.packet.payload_size, 0u);
}

TEST_P(Codec, PacketsOfSeveralRamBlocksGoToTheirOwnMemory) {
    Gang gang(1024, 1024);
    TestVm a(gang, 4, options());
    GuestMemory rom_source(2), rom(2);
    FillPage(rom_source.page(1), 77);
    a.Fill({1, 2, 3, 4});
    auto find = [&](const std::string &id) {
        if (id == "pc.ram") {
            return BlockAt{a.destination.data(), a.destination.bytes()};
        }
        return id == "pc.rom" ? BlockAt{rom.data(), rom.bytes()} : BlockAt{};
    };
    uint32_t ack;
    uint64_t rom_page = kPageSize;
    for (size_t i = 0; i < 4; i++) {
        GANG_OK(Apply(a.decoder.get(), a.Encode({i}), find, &ack));
        if (i % 2) {
            GANG_OK(a.encoder->Encode("pc.rom", nullptr, rom_source.data(), &rom_page, 1, IsZero,
                                      nullptr, &a.packet));
            GANG_OK(Apply(a.decoder.get(), Flatten(a.packet), find, &ack));
        }
    }
    EXPECT_TRUE(a.Identical());
    EXPECT_EQ(memcmp(rom.data(), rom_source.data(), rom.bytes()), 0);
}

TEST_P(Codec, Invariant8_AFullStoreOnlyMeansFewerReferences) {
    Gang gang(kChunkSlots, 4096);
    TestVm a(gang, 200, options()), b(gang, 200, options());
    std::vector<uint64_t> contents;
    for (uint64_t i = 1; i <= 200; i++) {
        contents.push_back(i);
    }
    a.Fill(contents);
    b.Fill(contents);
    a.Scan();
    b.Scan();
    GANG_OK(a.Send(a.EncodeAll()));
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_EQ(a.Kinds(), std::string(kChunkSlots, 'p') + std::string(200 - kChunkSlots, 'l'));
    EXPECT_EQ(b.Kinds(), std::string(kChunkSlots, 'r') + std::string(200 - kChunkSlots, 'l'));
    EXPECT_TRUE(a.Identical());
    EXPECT_TRUE(b.Identical());
    EXPECT_EQ(gang.store->slots_used(), kChunkSlots);
    EXPECT_EQ(gang.directory->stat(a.member, Stat::kStoreFullPages), 200u - kChunkSlots);
}

TEST_P(Codec, Invariant8_AFullDirectoryOnlyMeansFewerReferences) {
    Gang gang(4096, 1); // 1024 entries
    TestVm filler(gang, 1024, options()), b(gang, 600, options());
    std::vector<uint64_t> contents;
    for (uint64_t i = 1; i <= 1024; i++) {
        contents.push_back(i);
    }
    for (int round = 0; round < 3; round++) {
        for (uint64_t &content : contents) {
            content += 1024;
        }
        filler.Fill(contents);
        GANG_OK(filler.Send(filler.EncodeAll()));
        EXPECT_TRUE(filler.Identical());
    }
    std::vector<uint64_t> same(600, 1);
    b.Fill(same);
    GANG_OK(b.Send(b.EncodeAll()));
    EXPECT_TRUE(b.Identical());
    EXPECT_GT(gang.directory->stat(filler.member, Stat::kDirectoryFull), 0u);
}

TEST_P(Codec, CompressedPagesAreSmallerAndRawOnesAreNot) {
    Gang gang(1024, 1024);
    TestVm a(gang, 32, options());
    std::vector<uint64_t> contents;
    for (uint64_t i = 1; i <= 32; i++) {
        contents.push_back(2 * i); // compressible
    }
    a.Fill(contents);
    GANG_OK(a.Send(a.EncodeAll()));
    EXPECT_TRUE(a.Identical());
    if (GetParam() == PayloadEncoding::kRaw) {
        EXPECT_EQ(a.packet.payload_size, 32u * kPageSize);
    } else {
        EXPECT_LT(a.packet.payload_size, 32u * kPageSize / 4);
    }
}

TEST_P(Codec, PacketsWithoutPagesOrWithTooManyAreRefused) {
    Gang gang(1024, 4096);
    TestVm a(gang, 1, options());
    std::vector<uint64_t> offsets(kMaxPacketPages + 1);
    for (size_t count : {size_t{0}, kMaxPacketPages + 1}) {
        EXPECT_FALSE(a.encoder
                         ->Encode("pc.ram", nullptr, a.source.data(), offsets.data(), count, IsZero,
                                  nullptr, &a.packet)
                         .ok());
        EXPECT_TRUE(a.packet.empty());
    }
}

TEST(CodecOptions, EveryLevelOfQemuWorks) {
    Gang gang(1024, 1024);
    for (int level : {1, 3, 9, 19, 20}) {
        TestVm a(gang, 4, {PayloadEncoding::kZstd, level});
        a.Fill({1, 2, 3, 4});
        GANG_OK(a.Send(a.EncodeAll()));
        EXPECT_TRUE(a.Identical()) << level;
    }
}

} // namespace
} // namespace gang
