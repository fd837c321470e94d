// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Pages are hashed in batches, so that a batch's buckets come from memory while
// its later pages are still being hashed.

#include "scan.h"

namespace gang {

namespace {
constexpr size_t kScanBatch = 64;
} // namespace

void ScanPages(Directory *directory, uint32_t member, const uint8_t *host,
               const uint64_t *offsets, size_t count, IsZeroFn is_zero, bool features) {
    uint64_t zero = 0, scanned = 0, duplicates = 0;
    Hash hashes[kScanBatch];
    const uint8_t *pages[kScanBatch];
    for (size_t i = 0; i < count;) {
        size_t n = 0;
        for (; i < count && n < kScanBatch; i++) {
            const uint8_t *page = host + offsets[i];
            if (is_zero && is_zero(page, kPageSize)) {
                zero++;
                continue;
            }
            hashes[n] = directory->hasher()(page, kPageSize);
            pages[n] = page;
            directory->Prefetch(hashes[n++]);
        }
        for (size_t k = 0; k < n; k++) {
            if (directory->Count(hashes[k])) {
                duplicates++;
            } else if (features) {
                directory->CountFeatures(FeaturesOf(pages[k]));
            }
        }
        scanned += n;
    }
    directory->AddStat(member, Stat::kScannedPages, scanned);
    directory->AddStat(member, Stat::kScanZeroPages, zero);
    directory->AddStat(member, Stat::kScanDuplicates, duplicates);
}

} // namespace gang
