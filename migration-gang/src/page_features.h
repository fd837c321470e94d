// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Features of a page's content: pages that share a feature are likely to have
// much in common, so that one can be coded against the other.
//
// A feature is a min-hash (Broder, "On the resemblance and containment of
// documents", 1997) over the page's 64-byte blocks: two pages that have a part J
// of their blocks in common share each feature with probability J.  The paper's
// HashSimilarityDetector hashes blocks at fixed random offsets instead; both were
// tried on dumps of clones (docs/performance.md).

#ifndef GANG_PAGE_FEATURES_H
#define GANG_PAGE_FEATURES_H

#include <array>
#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace gang {

inline constexpr size_t kFeatureBlock = 64; // bytes
using Features = std::array<uint64_t, kFeatures>;

// The page must not be all zero (it would have no block to look at; such a page
// gets features all the same).  Pure; some 0.5 us.
Features FeaturesOf(const uint8_t *page);

// How many of the kPageSize / kFeatureBlock blocks of two pages are equal at
// their place.  *differing has bit i set where block i is not.
size_t EqualBlocks(const uint8_t *a, const uint8_t *b, uint64_t *differing);

} // namespace gang

#endif
