// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Telling and saving.

#include "kept.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace gang {

size_t Teller::Next(uint8_t out[kMaxReturnMessage]) {
    Hash hashes[kInventorySlots];
    uint8_t page[kPageSize];
    size_t count = 0;
    uint64_t first = 0;
    while (count < kInventorySlots) {
        const uint64_t slot = store_->NextFilled(slot_);
        if (slot >= store_->slots() || (count && slot != first + count)) {
            break;
        }
        slot_ = slot + 1;
        if (!store_->Get(static_cast<uint32_t>(slot), page, &hashes[count], Store::How::kRead).ok()) {
            store_->Clear(static_cast<uint32_t>(slot));
            if (count) {
                break;
            }
            continue;
        }
        first = count ? first : slot;
        count++;
    }
    if (count) {
        told_ += count;
        return StoreInventory(static_cast<uint32_t>(first), hashes, count, out);
    }
    if (std::exchange(ended_, true)) {
        return 0;
    }
    StoreInventoryEnd(static_cast<uint32_t>(store_->open_slots()), told_, out);
    return kInventoryEndSize;
}

Saver::Saver(Store *store) : store_(store), learnt_(store->open_slots()) {
    known_.resize(1024);
    copies_.resize(Store::kMaxPut * kPageSize);
    Learn(0, store->open_slots());
}

void Saver::Learn(uint64_t from, uint64_t to) {
    for (uint64_t slot = store_->NextFilled(from); slot < to; slot = store_->NextFilled(slot + 1)) {
        Know(store_->Said(static_cast<uint32_t>(slot)).lo);
    }
}

// Two contents with one low half: the second one is not saved, and sent again.
bool Saver::Know(uint64_t hash) {
    if (2 * used_ >= known_.size()) {
        std::vector<uint64_t> old(known_.size() * 4);
        old.swap(known_);
        used_ = 0;
        for (uint64_t h : old) {
            if (h) {
                Know(h);
            }
        }
    }
    const uint64_t mask = known_.size() - 1;
    for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
        if (known_[at] == hash) {
            return false;
        }
        if (known_[at] == 0) {
            known_[at] = hash;
            used_++;
            return true;
        }
    }
}

bool Saver::Save(const uint8_t *host, const uint64_t *offsets, size_t count,
                 bool (*is_zero)(const void *page, size_t size)) {
    // Clones save at the same time: what another one has saved is not saved again.
    const uint64_t others = std::min(store_->open_slots() + store_->saved(), store_->slots());
    if (learnt_ < others) {
        Learn(learnt_, others);
        learnt_ = others;
    }
    if (others >= store_->slots()) {
        return false;
    }
    const uint8_t *pages[Store::kMaxPut];
    Hash hashes[Store::kMaxPut];
    size_t fresh = 0;
    for (size_t i = 0; i < std::min(count, Store::kMaxPut); i++) {
        const uint8_t *page = host + offsets[i];
        if (is_zero && is_zero(page, kPageSize)) {
            continue;
        }
        uint8_t *copy = copies_.data() + fresh * kPageSize;
        memcpy(copy, page, kPageSize);
        if (Know(store_->hasher()(copy, kPageSize).lo)) {
            pages[fresh++] = copy;
        }
    }
    if (!fresh) {
        return true;
    }
    if (!store_->Save(pages, fresh, hashes).ok()) {
        return false;
    }
    saved_ += fresh;
    return true;
}

} // namespace gang
