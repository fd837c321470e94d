// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Watches acknowledgements.

#include "stall_watch.h"

namespace gang {

void StallWatch::Observe(uint64_t now_ms) {
    for (uint32_t m = 0; m < kMaxMembers; m++) {
        if (directory_->member_state(m) == MemberState::kFree) {
            return; // records are taken in order
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
            } else if (now_ms - ch.since_ms >= limit_ms_) {
                ch.stalled.store(true, std::memory_order_relaxed);
            }
        }
    }
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
    if (stalls->Stalled(member, channel)) {
        return true;
    }
    stalls->Wait(member, channel); // for a later packet than the one that moved it
    return false;
}

} // namespace gang
