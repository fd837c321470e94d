// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The hash is the one both hosts must agree on: fixed vectors, and xxHash's own
// library or a second SHA-256 for everything else.

#include "hash.h"

#include <gtest/gtest.h>
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include <cstring>
#include <string>
#include <vector>

#include "reference_sha256.h"
#include "testing.h"

namespace gang {
namespace {

Seed CountingSeed() {
    Seed seed;
    for (uint8_t i = 0; i < 16; i++) {
        seed[i] = i;
    }
    return seed;
}

// Another build, compiler or version of xxHash must come to the same numbers:
// hosts that do not would refuse each other's pages.
TEST(Hash, AgreesWithItsStoredVectors) {
    Hasher hasher(CountingSeed());
    std::vector<uint8_t> page(kPageSize);
    Hash zero = hasher(page.data(), page.size());
    for (size_t i = 0; i < page.size(); i++) {
        page[i] = static_cast<uint8_t>(i * 7 + i / 256);
    }
    Hash counted = hasher(page.data(), page.size());
    EXPECT_EQ(zero, (Hash{0x9dc23e9744d2bac2, 0x51b2318c6703eb35}));
    EXPECT_EQ(counted, (Hash{0xe56aafa4cf0d0a29, 0x0a6bf94f8db48697}));
    const Hash both[] = {zero, counted};
    EXPECT_EQ(hasher.Digest(both, 2), 0xc4809a59dca0ccbeu);
}

TEST(Hash, IsXxh3WithASecretMadeOfTheSeed) {
    test::Rng rng(test::TestSeed());
    for (int round = 0; round < 100; round++) {
        Seed seed;
        for (uint8_t &b : seed) {
            b = static_cast<uint8_t>(rng());
        }
        uint8_t secret[192];
        ASSERT_EQ(XXH3_generateSecret(secret, sizeof(secret), seed.data(), seed.size()), XXH_OK);
        alignas(64) uint8_t page[kPageSize];
        test::FillPage(page, rng());
        XXH128_hash_t expected =
            XXH3_128bits_withSecret(page, sizeof(page), secret, sizeof(secret));
        Hasher hasher(seed);
        EXPECT_EQ(hasher(page, sizeof(page)), (Hash{expected.low64, expected.high64}));

        std::vector<Hash> hashes(1 + round * 11);
        for (Hash &h : hashes) {
            h = {rng(), rng()};
        }
        EXPECT_EQ(hasher.Digest(hashes.data(), hashes.size()),
                  XXH3_64bits_withSecret(hashes.data(), hashes.size() * sizeof(Hash), secret,
                                         sizeof(secret)));
    }
}

// The numbers were made with Python's hmac and hashlib.
TEST(Sha256, AgreesWithItsStoredVectors) {
    Hasher hasher(CountingSeed(), HashKind::kSha256);
    std::vector<uint8_t> page(kPageSize);
    Hash zero = hasher(page.data(), page.size());
    for (size_t i = 0; i < page.size(); i++) {
        page[i] = static_cast<uint8_t>(i * 7 + i / 256);
    }
    Hash counted = hasher(page.data(), page.size());
    EXPECT_EQ(zero, (Hash{0xfd694fe96541624b, 0xeed6cbc108c39de0}));
    EXPECT_EQ(counted, (Hash{0x91389f6d080179c2, 0x99f6c1b73018d7c4}));
    const Hash both[] = {zero, counted};
    uint64_t more = 0;
    EXPECT_EQ(hasher.Digest(both, 2, &more), 0x64da40985919915cu);
    EXPECT_EQ(more, 0x82529384d4bc96d2u);
}

// RFC 4231, test case 2: HMAC fills a short key up with zeros, so that the RFC's key
// of four bytes is a seed too.
TEST(Sha256, IsTheHmacOfTheRfc) {
    const Seed seed = {'J', 'e', 'f', 'e'};
    const std::string text = "what do ya want for nothing?";
    EXPECT_EQ(Hasher(seed, HashKind::kSha256)(text.data(), text.size()),
              (Hash{0x4e7560bf46c1dc5b, 0xc77595082624046a}));
}

TEST(Sha256, IsHmacWithTheSeedAsKey) {
    test::Rng rng(test::TestSeed());
    for (int round = 0; round < 20; round++) {
        Seed seed;
        for (uint8_t &b : seed) {
            b = static_cast<uint8_t>(rng());
        }
        std::vector<uint8_t> page(round % 2 ? kPageSize : test::Below(rng, 300));
        for (uint8_t &b : page) {
            b = static_cast<uint8_t>(rng());
        }
        const std::vector<uint8_t> tag =
            reference::HmacSha256({seed.begin(), seed.end()}, page);
        Hash expected;
        memcpy(&expected, tag.data(), sizeof(expected));
        EXPECT_EQ(Hasher(seed, HashKind::kSha256)(page.data(), page.size()), expected);
    }
}

// FIPS 180-4's example and RFC 4231's test cases 2 and 6.
TEST(ReferenceSha256, AgreesWithPublishedVectors) {
    using reference::HmacSha256;
    auto bytes = [](const std::string &text) {
        return std::vector<uint8_t>(text.begin(), text.end());
    };
    auto hex = [](const std::vector<uint8_t> &digest) {
        std::string text;
        for (uint8_t byte : digest) {
            text += "0123456789abcdef"[byte >> 4];
            text += "0123456789abcdef"[byte & 15];
        }
        return text;
    };
    EXPECT_EQ(hex(reference::Sha256(bytes("abc"))),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(hex(HmacSha256(bytes("Jefe"), bytes("what do ya want for nothing?"))),
              "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    EXPECT_EQ(hex(HmacSha256(std::vector<uint8_t>(131, 0xaa),
                             bytes("Test Using Larger Than Block-Size Key - Hash Key First"))),
              "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(Hash, DiffersBetweenGangsAndKinds) {
    Seed other = CountingSeed();
    other[15] ^= 1;
    uint8_t page[kPageSize];
    test::FillPage(page, 42);
    for (HashKind kind : {HashKind::kXxh3_128, HashKind::kSha256}) {
        EXPECT_NE(Hasher(CountingSeed(), kind)(page, sizeof(page)),
                  Hasher(other, kind)(page, sizeof(page)));
    }
    EXPECT_NE(Hasher(CountingSeed(), HashKind::kXxh3_128)(page, sizeof(page)),
              Hasher(CountingSeed(), HashKind::kSha256)(page, sizeof(page)));
}

} // namespace
} // namespace gang
