// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Pages that wait for another member, and for how long that is worth it.

#ifndef GANG_STALL_WATCH_H
#define GANG_STALL_WATCH_H

#include <atomic>
#include <cstdint>

#include "directory.h"

namespace gang {

// A page that was not sent because another member has its content, or a page to
// code it against, in flight.
struct Deferred {
    void *block;        // the caller's cookie for the RAMBlock
    uint64_t offset;    // bytes
    const Entry *entry; // whose claim to look at again; nullptr: the slot
    uint32_t slot;
};

// Tells members whose acknowledgements have stopped from those that are slow:
// a channel somebody here waits for, and that has not moved for limit_ms, is
// stalled until it moves again; nobody waits for it then.
// Thread-safety: Observe() by one thread, the rest by any.
class StallWatch {
  public:
    StallWatch(const Directory *directory, uint64_t limit_ms)
        : directory_(directory), limit_ms_(limit_ms) {}
    // `now_ms`: any steady clock.
    void Observe(uint64_t now_ms);
    // Somebody waits for this channel.  Counts until the channel moves: whoever
    // waits for more than its next packet says so again then.
    void Wait(uint32_t member, uint32_t channel) {
        channels_[member][channel].waited_for.store(true, std::memory_order_relaxed);
    }
    bool Stalled(uint32_t member, uint32_t channel) const {
        return channels_[member][channel].stalled.load(std::memory_order_relaxed);
    }

  private:
    struct Channel {
        std::atomic<bool> waited_for{false};
        std::atomic<bool> stalled{false};
        bool watched = false; // waited for since since_ms, without moving
        uint32_t acked = 0;
        uint64_t since_ms = 0;
    };
    const Directory *directory_;
    uint64_t limit_ms_;
    Channel channels_[kMaxMembers][kMaxChannels];
};

// Whether it is known by now what becomes of a deferred page: what it waits for
// is confirmed, or will not be soon.  Any thread.
bool Decidable(const Directory &directory, StallWatch *stalls, const Deferred &page);

} // namespace gang

#endif
