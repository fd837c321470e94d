// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A good packet with bits flipped, cut short or followed by rubbish: it fails
// cleanly, or changes nothing but its own VM's memory (invariant 5).

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

// A destination in the state in which the packet under test arrives: slots
// 0..2 hold published pages of another member, slot 3 and up are empty.
struct Scene {
    explicit Scene(const EncoderOptions &options, HashKind hash_kind = HashKind::kXxh3_128)
        : gang(256, 256, 0, hash_kind), a(gang, 3, options), b(gang, 6, options) {
        a.Fill({11, 12, 13});
        b.Fill({0, 12, 13, 21, 30, 31});
        a.Scan();
        b.Scan();
        const Hash other = gang.directory->hasher()(b.source.page(3), kPageSize);
        gang.directory->Count(other); // 21 occurs in somebody else too
        const Hash first = gang.directory->hasher()(a.source.page(0), kPageSize);
        gang.directory->Count(first);
        EXPECT_TRUE(a.Send(a.EncodeAll()).ok());
        EXPECT_EQ(a.Kinds(), "ppp");
        good = b.EncodeAll();
    }
    bool StoreKeepsTheOthersPages() {
        alignas(64) uint8_t page[kPageSize];
        Hash hash;
        for (uint32_t slot = 0; slot < 3; slot++) {
            if (!gang.store->Get(slot, page, &hash).ok() ||
                memcmp(page, a.source.page(slot), kPageSize) != 0) {
                return false;
            }
        }
        return true;
    }

    Gang gang;
    TestVm a, b;
    Bytes good;
};

class Tamper : public testing::TestWithParam<PayloadEncoding> {
  protected:
    EncoderOptions options() const { return {GetParam(), 1}; }
};

INSTANTIATE_TEST_SUITE_P(Payload, Tamper,
                         testing::Values(PayloadEncoding::kRaw, PayloadEncoding::kZstd),
                         [](const auto &value) {
                             return value.param == PayloadEncoding::kRaw ? "raw" : "zstd";
                         });

TEST_P(Tamper, TheUntouchedPacketHoldsEveryKindAndArrives) {
    Scene scene(options());
    GANG_OK(scene.b.Send(scene.good));
    EXPECT_EQ(scene.b.Kinds(), "zrrpll");
    EXPECT_TRUE(scene.b.Identical());
    EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
}

TEST_P(Tamper, Invariant5_EveryFlippedBitOfTheHeaderIsNoticed) {
    for (size_t bit = 0; bit < 8 * kPacketHeaderSize; bit++) {
        Scene scene(options());
        scene.good[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        EXPECT_FALSE(scene.b.Send(scene.good).ok()) << "bit " << bit;
        EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
    }
}

// Both halves of it, though the checksum fits.
TEST_P(Tamper, Invariant3_EveryFlippedBitOfASha256DigestIsNoticed) {
    const size_t first = 24, second = kPacketHeaderSize;
    for (size_t bit = 0; bit < 128; bit++) {
        Scene scene(options(), HashKind::kSha256);
        scene.good[(bit < 64 ? first : second - 8) + bit / 8] ^=
            static_cast<uint8_t>(1 << bit % 8);
        FixCheck(&scene.good, scene.gang.store->hasher());
        EXPECT_EQ(scene.b.Send(scene.good).code(), Code::kCorrupt) << "bit " << bit;
        EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
    }
    Scene scene(options(), HashKind::kSha256);
    GANG_OK(scene.b.Send(scene.good));
    EXPECT_EQ(scene.b.Kinds(), "zrrpll");
    EXPECT_TRUE(scene.b.Identical());
}

// A source that believes in another hash than the store has is refused, whatever
// its packet describes.
TEST_P(Tamper, Invariant5_APacketOfAnotherHashKindIsRefused) {
    for (HashKind of_store : {HashKind::kXxh3_128, HashKind::kSha256}) {
        const HashKind other =
            of_store == HashKind::kSha256 ? HashKind::kXxh3_128 : HashKind::kSha256;
        for (uint64_t content : {uint64_t{7}, uint64_t{0}}) { // literal, zero
            Gang gang(256, 256, 0, of_store);
            TestVm vm(gang, nullptr, 4, options());
            vm.Fill({content, content, content, content});
            EncoderOptions wrong = options();
            wrong.seed = gang.store->seed();
            wrong.hash_kind = other;
            GANG_OK(Encoder::Create(nullptr, nullptr, vm.member, 0, wrong, &vm.encoder));
            EXPECT_FALSE(vm.Send(vm.EncodeAll()).ok());
        }
    }
}

TEST_P(Tamper, Invariant5_EveryFlippedBitOfTheDescriptionsIsNoticed) {
    const size_t size = Scene(options()).b.packet.header_size;
    for (size_t bit = 8 * kPacketHeaderSize; bit < 8 * size; bit++) {
        Scene scene(options());
        scene.good[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        EXPECT_FALSE(scene.b.Send(scene.good).ok()) << "bit " << bit;
        EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
    }
}

// A hostile source may describe other pages of its own VM, and nothing more.
TEST_P(Tamper, Invariant5_NoHostileDescriptionReachesBeyondTheVm) {
    const size_t size = Scene(options()).b.packet.header_size;
    for (size_t bit = 8 * kPacketHeaderSize; bit < 8 * size; bit++) {
        Scene scene(options());
        scene.good[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        FixCheck(&scene.good, scene.gang.store->hasher());
        Status status = scene.b.Send(scene.good);
        EXPECT_NE(status.message(), "a gang packet was damaged on its way");
        EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
        if (status.ok()) {
            EXPECT_EQ(scene.b.Kinds().size(), 6u);
        }
    }
}

// The published page comes first.  Raw literal pages are read while the guest
// runs and have no checksum but TCP's and TLS's, as in a stock migration.
TEST_P(Tamper, Invariant3_EveryFlippedByteOfAPublishedPageIsNoticed) {
    const size_t start = Scene(options()).b.packet.header_size;
    const bool raw = GetParam() == PayloadEncoding::kRaw;
    const size_t end = raw ? start + kPageSize : Scene(options()).good.size();
    for (size_t at = start; at < end; at += raw ? 5 : 11) {
        Scene scene(options());
        scene.good[at] ^= static_cast<uint8_t>(1 << at % 8);
        EXPECT_FALSE(scene.b.Send(scene.good).ok()) << at;
        EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
    }
}

TEST_P(Tamper, Invariant3_AHostilePublishedPageIsRightOrRefused) {
    const size_t start = Scene(options()).b.packet.header_size;
    for (size_t at = start; at < start + kPageSize; at += 11) {
        Scene scene(options());
        scene.good[at] ^= static_cast<uint8_t>(1 << at % 8);
        FixCheck(&scene.good, scene.gang.store->hasher());
        if (scene.b.Send(scene.good).ok()) {
            EXPECT_EQ(memcmp(scene.b.destination.page(3), scene.b.source.page(3), kPageSize), 0);
        }
        EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
    }
}

TEST_P(Tamper, Invariant5_EveryTruncationIsNoticed) {
    const size_t size = Scene(options()).good.size();
    const size_t head = Scene(options()).b.packet.header_size;
    for (size_t length = 1; length < size; length += length < head + 8 ? 1 : 97) {
        Scene scene(options());
        scene.good.resize(length);
        EXPECT_FALSE(scene.b.Send(scene.good).ok()) << length;
        EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
    }
}

TEST_P(Tamper, Invariant5_RandomDamageCrashesNobody) {
    Rng rng(TestSeed());
    for (int round = 0; round < 300; round++) {
        Scene scene(options());
        for (uint64_t n = 1 + Below(rng, 8); n; n--) {
            size_t at = Below(rng, 2) ? Below(rng, scene.b.packet.header_size)
                                      : Below(rng, scene.good.size());
            scene.good[at] = static_cast<uint8_t>(rng());
        }
        if (Below(rng, 4)) {
            FixCheck(&scene.good, scene.gang.store->hasher());
        }
        (void)scene.b.Send(scene.good);
        EXPECT_TRUE(scene.StoreKeepsTheOthersPages());
    }
}

TEST_P(Tamper, APacketThatComesTwiceOrTooEarlyIsNoticed) {
    Scene scene(options());
    Bytes second = scene.b.Encode({4});
    EXPECT_FALSE(scene.b.Send(second).ok()) << "one is missing";
    Scene again(options());
    GANG_OK(again.b.Send(again.good));
    EXPECT_FALSE(again.b.Send(again.good).ok()) << "one came twice";
}

} // namespace
} // namespace gang
