// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What the destination holds of pages that were sent before and are being sent
// again: the base for a delta against a page's own last version, as QEMU's xbzrle
// has it (migration/page_cache.c), for several channels at once.

#ifndef GANG_PAGE_CACHE_H
#define GANG_PAGE_CACHE_H

#include <atomic>
#include <cstdint>
#include <memory>

#include "layout.h"

namespace gang {

// Thread-safe; private to one member's process.  Direct-mapped: a page that comes
// to another's place takes it.  Invariant: what is in here for a page is what was
// last sent for it.  So every page that is sent is Put or Dropped; a page is in
// only one packet at a time, and rounds are separated by multifd's SYNC.
class PageCache {
  public:
    // `bytes` is rounded down to a power of two of pages; memory is taken at the
    // first Put.
    explicit PageCache(uint64_t bytes);
    ~PageCache();
    PageCache(const PageCache &) = delete;
    PageCache &operator=(const PageCache &) = delete;

    // Copies the page's last version to `out`; false: not known.  `block` is any
    // cookie for the RAMBlock.
    bool Get(const void *block, uint64_t page, uint8_t *out);
    void Put(const void *block, uint64_t page, const uint8_t *data);
    void Drop(const void *block, uint64_t page);
    // Nothing was ever put: a first round has nothing to drop.
    bool empty() const { return !used_.load(std::memory_order_acquire); }

  private:
    struct Line {
        std::atomic_flag busy = ATOMIC_FLAG_INIT; // held for one copy of a page
        bool valid = false;
        const void *block = nullptr;
        uint64_t page = 0;
    };
    class Hold; // of one line
    Line *LineOf(const void *block, uint64_t page) const;
    uint8_t *DataOf(const Line *line) const;
    bool Allocate();

    uint64_t lines_;
    std::unique_ptr<Line[]> line_;
    uint8_t *data_ = nullptr;
    std::atomic<bool> used_{false};
    std::atomic_flag allocating_ = ATOMIC_FLAG_INIT;
    std::atomic<bool> failed_{false};
};

} // namespace gang

#endif
