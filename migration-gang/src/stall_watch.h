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
    mutable uint64_t since_ms = 0; // Decidable()'s: when it was first found waiting; 0: not yet
};

// Tells members whose acknowledgements have stopped from those that are slow:
// a channel somebody here waits for, and that has not moved for limit_ms, is
// stalled until it moves again; nobody waits for it then.  One that moves just often
// enough is not waited for any more, for good, once a page has waited for it kMuchMore
// limits, or after as many stalls: it may move to hold others up.
// Thread-safety: Observe() by one thread, the rest by any.
class StallWatch {
  public:
    StallWatch(const Directory *directory, uint64_t limit_ms)
        : directory_(directory), limit_ms_(limit_ms) {}
    static constexpr uint32_t kMuchMore = 10;
    // `now_ms`: any steady clock.
    void Observe(uint64_t now_ms);
    // Somebody waits for this channel.  Counts until the channel moves: whoever
    // waits for more than its next packet says so again then.
    void Wait(uint32_t member, uint32_t channel) {
        members_[member].waited_for.store(true, std::memory_order_relaxed);
        channels_[member][channel].waited_for.store(true, std::memory_order_relaxed);
    }
    bool Stalled(uint32_t member, uint32_t channel) const {
        return members_[member].too_slow.load(std::memory_order_relaxed) ||
               channels_[member][channel].stalled.load(std::memory_order_relaxed);
    }
    // Somebody found this page waiting for that member: whether it has for too long.
    bool TooLong(uint32_t member, const Deferred &page);

  private:
    struct Channel {
        std::atomic<bool> waited_for{false};
        std::atomic<bool> stalled{false};
        bool watched = false; // waited for since since_ms, without moving
        uint32_t acked = 0;
        uint64_t since_ms = 0;
    };
    struct Member {
        std::atomic<bool> waited_for{false}; // ever
        std::atomic<bool> too_slow{false};
        uint32_t stalls = 0;
    };
    const Directory *directory_;
    uint64_t limit_ms_;
    std::atomic<uint64_t> now_ms_{0}; // of the last look
    Member members_[kMaxMembers];
    Channel channels_[kMaxMembers][kMaxChannels];
};

// Whether it is known by now what becomes of a deferred page: what it waits for
// is confirmed, or will not be soon.  Any thread.
bool Decidable(const Directory &directory, StallWatch *stalls, const Deferred &page);

} // namespace gang

#endif
