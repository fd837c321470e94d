// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The benchmarks' guest memory.

#include "bench_memory.h"

#include <cstdlib>
#include <cstring>

namespace gang::bench {

size_t Pages() {
    static const size_t pages = [] {
        const char *text = getenv("GANG_BENCH_MIB");
        size_t mib = text ? strtoull(text, nullptr, 0) : 256;
        return (mib ? mib : 1) * 256;
    }();
    return pages;
}

const test::GuestMemory &DistinctPages() {
    static const test::GuestMemory *memory = [] {
        auto *m = new test::GuestMemory(Pages());
        test::Rng rng(1);
        for (size_t i = 0; i < m->pages(); i++) {
            uint8_t *page = m->page(i);
            for (size_t at = 0; at < kPageSize; at += 16) {
                uint64_t v = rng() | 1;
                memcpy(page + at, &v, sizeof(v));
            }
        }
        return m;
    }();
    return *memory;
}

bool IsZero(const void *page, size_t size) {
    uint64_t first;
    memcpy(&first, page, sizeof(first));
    return first == 0 && test::IsZero(page, size);
}

} // namespace gang::bench
