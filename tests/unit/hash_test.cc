// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The hash is the one both hosts must agree on: fixed vectors, and xxHash's own
// library for everything else.

#include "hash.h"

#include <gtest/gtest.h>
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include <vector>

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

TEST(Hash, DiffersBetweenGangs) {
    Seed other = CountingSeed();
    other[15] ^= 1;
    uint8_t page[kPageSize];
    test::FillPage(page, 42);
    EXPECT_NE(Hasher(CountingSeed())(page, sizeof(page)), Hasher(other)(page, sizeof(page)));
}

} // namespace
} // namespace gang
