// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The destination's side of a retry: a member that fails saves what its guest's
// memory has got, and the next attempt is told what the store holds.

#ifndef GANG_KEPT_H
#define GANG_KEPT_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "store.h"
#include "wire.h"

namespace gang {

// Says what a kept store holds, a message at a time.  Each slot is hashed again
// first, and emptied if it does not hold what it says: what a member that is broken
// has left there makes no later attempt fail.  One thread.
class Teller {
  public:
    explicit Teller(Store *store) : store_(store) {}
    // The next message; 0: the end has been told.
    size_t Next(uint8_t out[kMaxReturnMessage]);

  private:
    Store *store_;
    uint64_t slot_ = 0, told_ = 0;
    bool ended_ = false;
};

// Saves pages whose content the store does not have yet.  One thread, when nobody
// writes the pages any more; others may fill the store meanwhile.
class Saver {
  public:
    explicit Saver(Store *store);
    // `count` (at most Store::kMaxPut) pages.  False: no more can be saved.
    bool Save(const uint8_t *host, const uint64_t *offsets, size_t count,
              bool (*is_zero)(const void *page, size_t size));
    uint64_t saved() const { return saved_; }

  private:
    bool Know(uint64_t hash); // false: it was known
    void Learn(uint64_t from, uint64_t to);

    Store *store_;
    uint64_t saved_ = 0, learnt_; // saved slots up to here are known
    std::vector<uint64_t> known_; // low halves of hashes, open addressing; 0: free
    uint64_t used_ = 0;
    std::vector<uint8_t> copies_;
};

} // namespace gang

#endif
