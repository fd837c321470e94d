// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The cache of last versions: it may forget, it never makes up.

#include "page_cache.h"

#include <cstring>
#include <thread>

#include "testing.h"

namespace gang {
namespace {

using namespace test;

TEST(PageCache, GivesBackWhatWasPutAndNothingElse) {
    PageCache cache(16 * kPageSize);
    uint8_t page[kPageSize], out[kPageSize];
    int block, other;
    EXPECT_TRUE(cache.empty());
    EXPECT_FALSE(cache.Get(&block, 0, out));
    FillPage(page, 1);
    cache.Put(&block, 0, page);
    EXPECT_FALSE(cache.empty());
    ASSERT_TRUE(cache.Get(&block, 0, out));
    EXPECT_EQ(memcmp(page, out, kPageSize), 0);
    EXPECT_FALSE(cache.Get(&other, 0, out));
    EXPECT_FALSE(cache.Get(&block, 1, out));
    cache.Drop(&block, 1);
    EXPECT_TRUE(cache.Get(&block, 0, out));
    cache.Drop(&block, 0);
    EXPECT_FALSE(cache.Get(&block, 0, out));
}

TEST(PageCache, WithoutRoomItKeepsNothing) {
    PageCache cache(kPageSize - 1);
    uint8_t page[kPageSize] = {};
    cache.Put(nullptr, 0, page);
    EXPECT_FALSE(cache.Get(nullptr, 0, page));
}

TEST(PageCache, PagesThatTakeEachOthersPlacesAreNotMixedUp) {
    PageCache cache(4 * kPageSize);
    uint8_t page[kPageSize], out[kPageSize];
    for (uint64_t i = 0; i < 64; i++) {
        FillPage(page, i + 1);
        cache.Put(&cache, i, page);
        size_t found = 0;
        for (uint64_t k = 0; k <= i; k++) {
            if (cache.Get(&cache, k, out)) {
                FillPage(page, k + 1);
                EXPECT_EQ(memcmp(page, out, kPageSize), 0);
                found++;
            }
        }
        EXPECT_GE(found, 1u);
        EXPECT_LE(found, 4u);
    }
}

TEST(PageCache, SeveralChannelsUseItAtOnce) {
    PageCache cache(8 * kPageSize);
    std::vector<std::thread> threads;
    std::atomic<size_t> wrong{0};
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            uint8_t page[kPageSize], out[kPageSize];
            Rng rng(t);
            for (int i = 0; i < 2000; i++) {
                const uint64_t number = t + 4 * Below(rng, 32); // this thread's alone
                FillPage(page, number + 1);
                if (Below(rng, 2)) {
                    cache.Put(&cache, number, page);
                } else if (cache.Get(&cache, number, out)) {
                    wrong += memcmp(page, out, kPageSize) != 0;
                } else {
                    cache.Drop(&cache, number);
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(wrong, 0u);
}

} // namespace
} // namespace gang
