// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The cache's lines.

#include "page_cache.h"

#include <sys/mman.h>

#include <bit>
#include <cstring>
#include <thread>

namespace gang {

class PageCache::Hold {
  public:
    explicit Hold(Line *line) : line_(line) {
        while (line_->busy.test_and_set(std::memory_order_acquire)) {
            std::this_thread::yield();
        }
    }
    ~Hold() { line_->busy.clear(std::memory_order_release); }

  private:
    Line *line_;
};

PageCache::PageCache(uint64_t bytes)
    : lines_(bytes < kPageSize ? 0 : std::bit_floor(bytes / kPageSize)) {}

PageCache::~PageCache() {
    if (data_) {
        munmap(data_, lines_ * kPageSize);
    }
}

// True when there is memory; by whichever channel comes first.
bool PageCache::Allocate() {
    if (used_.load(std::memory_order_acquire)) {
        return true;
    }
    while (allocating_.test_and_set(std::memory_order_acquire)) {
        std::this_thread::yield();
    }
    if (!used_.load(std::memory_order_relaxed) && lines_ && !failed_) {
        // Not zeroed here: lines that are never used take no memory.
        void *p = mmap(nullptr, lines_ * kPageSize, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            failed_ = true;
        } else {
            line_ = std::make_unique<Line[]>(lines_);
            data_ = static_cast<uint8_t *>(p);
            used_.store(true, std::memory_order_release);
        }
    }
    allocating_.clear(std::memory_order_release);
    return used_.load(std::memory_order_acquire);
}

PageCache::Line *PageCache::LineOf(const void *block, uint64_t page) const {
    uint64_t h = page ^ reinterpret_cast<uintptr_t>(block) >> 4;
    h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15u;
    return &line_[(h >> 20) & (lines_ - 1)];
}

uint8_t *PageCache::DataOf(const Line *line) const {
    return data_ + static_cast<uint64_t>(line - line_.get()) * kPageSize;
}

bool PageCache::Get(const void *block, uint64_t page, uint8_t *out) {
    if (empty()) {
        return false;
    }
    Line *line = LineOf(block, page);
    Hold hold(line);
    if (!line->valid || line->block != block || line->page != page) {
        return false;
    }
    memcpy(out, DataOf(line), kPageSize);
    return true;
}

void PageCache::Put(const void *block, uint64_t page, const uint8_t *data) {
    if (!Allocate()) {
        return;
    }
    Line *line = LineOf(block, page);
    Hold hold(line);
    memcpy(DataOf(line), data, kPageSize);
    line->valid = true;
    line->block = block;
    line->page = page;
}

void PageCache::Drop(const void *block, uint64_t page) {
    if (empty()) {
        return;
    }
    Line *line = LineOf(block, page);
    Hold hold(line);
    if (line->block == block && line->page == page) {
        line->valid = false;
    }
}

} // namespace gang
