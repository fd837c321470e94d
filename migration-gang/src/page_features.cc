// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Min-hashes, and the comparison of two pages block by block.

#include "page_features.h"

#include <algorithm>
#include <bit>
#include <cstring>

#define XXH_STATIC_LINKING_ONLY
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace gang {

namespace {

constexpr size_t kBlocks = kPageSize / kFeatureBlock;
static_assert(kBlocks == 64);

bool Equal(const uint8_t *a, const uint8_t *b) {
    uint64_t x[8], y[8], differ = 0;
    memcpy(x, a, sizeof(x));
    memcpy(y, b, sizeof(y));
    for (size_t i = 0; i < 8; i++) {
        differ |= x[i] ^ y[i];
    }
    return differ == 0;
}

} // namespace

Features FeaturesOf(const uint8_t *page) {
    static constexpr uint8_t kZero[kFeatureBlock] = {};
    Features least;
    least.fill(UINT64_MAX);
    for (size_t i = 0; i < kBlocks; i++) {
        const uint8_t *block = page + i * kFeatureBlock;
        if (Equal(block, kZero)) {
            continue; // every page has some: they say nothing
        }
        uint64_t h = XXH3_64bits(block, kFeatureBlock);
        for (uint64_t &feature : least) {
            feature = std::min(feature, h);
            h = (h ^ (h >> 31)) * 0x9fb21c651e98df25u;
        }
    }
    // Equal minima of different features are different features.
    for (size_t i = 0; i < least.size(); i++) {
        least[i] = (least[i] ^ (least[i] >> 29)) * 0x9e3779b97f4a7c15u + i;
    }
    return least;
}

size_t EqualBlocks(const uint8_t *a, const uint8_t *b, uint64_t *differing) {
    uint64_t mask = 0;
    for (size_t i = 0; i < kBlocks; i++) {
        mask |= static_cast<uint64_t>(!Equal(a + i * kFeatureBlock, b + i * kFeatureBlock)) << i;
    }
    *differing = mask;
    return kBlocks - static_cast<size_t>(std::popcount(mask));
}

} // namespace gang
