// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Watches acknowledgements.

#include "stall_watch.h"

namespace gang {

void StallWatch::Observe(uint64_t now_ms) {
    now_ms_.store(now_ms, std::memory_order_relaxed);
    for (uint32_t m = 0; m < kMaxMembers; m++) {
        // By what is known here: whoever can write the members' states does not hide one.
        if (!members_[m].waited_for.load(std::memory_order_relaxed)) {
            continue;
        }
        for (uint32_t c = 0; c < kMaxChannels; c++) {
            Channel &ch = channels_[m][c];
            uint32_t acked = directory_->acked(m, c);
            if (acked != ch.acked) {
                ch.acked = acked;
                ch.watched = false;
                ch.waited_for.store(false, std::memory_order_relaxed);
                ch.stalled.store(false, std::memory_order_relaxed);
            } else if (!ch.waited_for.load(std::memory_order_relaxed)) {
                ch.watched = false;
            } else if (!ch.watched) {
                ch.watched = true;
                ch.since_ms = now_ms;
            } else if (now_ms - ch.since_ms >= limit_ms_ &&
                       !ch.stalled.exchange(true, std::memory_order_relaxed) &&
                       ++members_[m].stalls >= kMuchMore) {
                members_[m].too_slow.store(true, std::memory_order_relaxed);
            }
        }
    }
}

bool StallWatch::TooLong(uint32_t member, const Deferred &page) {
    const uint64_t now_ms = now_ms_.load(std::memory_order_relaxed);
    if (page.since_ms == 0) {
        page.since_ms = now_ms;
    } else if (now_ms - page.since_ms >= kMuchMore * limit_ms_) {
        members_[member].too_slow.store(true, std::memory_order_relaxed);
        return true;
    }
    return false;
}

bool Decidable(const Directory &directory, StallWatch *stalls, const Deferred &page) {
    uint32_t member, channel;
    if (page.entry) {
        const uint64_t claim = page.entry->claim.load(std::memory_order_acquire);
        if (!directory.Owner(claim, &member, &channel) || directory.Confirmed(claim) ||
            directory.member_state(member) != MemberState::kAlive) {
            return true;
        }
    } else if (directory.slot_state(page.slot) != SlotState::kInFlight ||
               !directory.OwnerOfSlot(page.slot, &member, &channel)) {
        return true;
    }
    if (stalls->Stalled(member, channel) || stalls->TooLong(member, page)) {
        return true;
    }
    stalls->Wait(member, channel); // for a later packet than the one that moved it
    return false;
}

} // namespace gang
