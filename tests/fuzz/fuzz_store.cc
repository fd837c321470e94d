// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Making the fixed store.

#include "fuzz_store.h"

#include <unistd.h>

namespace gang::fuzz {

std::unique_ptr<Store> MakeStore(HashKind kind, bool filled, test::Fd *fd) {
    std::unique_ptr<Store> store;
    Check(Store::Create(kSlots, kind, fd->out()).ok(), "a store can be made");
    Check(pwrite(fd->get(), kSeed.data(), kSeed.size(), offsetof(StoreHeader, seed)) ==
              static_cast<ssize_t>(kSeed.size()),
          "its seed can be set");
    Check(Store::Open(fd->get(), &store).ok(), "it can be opened");
    alignas(64) uint8_t page[kPageSize];
    Hash hash;
    for (uint32_t slot = 0; filled && slot < kFilled; slot++) {
        test::FillPage(page, 100 + slot);
        Check(store->Put(slot, page, &hash).ok(), "it can be filled");
    }
    return store;
}

} // namespace gang::fuzz
