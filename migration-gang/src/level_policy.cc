// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The policy's windows.

#include "level_policy.h"

#include <algorithm>

namespace gang {

int LevelPolicy::level() const { return incompressible_ ? kRaw : kLevels[step_]; }

void LevelPolicy::Packet(uint64_t worked_ns, uint64_t waited_ns, uint64_t raw_bytes,
                         uint64_t coded_bytes, const LinkTimes &link) {
    worked_ += worked_ns;
    waited_ += waited_ns;
    if (raw_bytes) {
        packets_++;
        if (incompressible_) {
            incompressible_--;
        } else if (kLevels[step_] != kRaw) {
            raw_ += raw_bytes;
            coded_ += coded_bytes;
            // A quarter MiB that does not get smaller: neither will what follows.
            if (raw_ >= 256 << 10) {
                if (coded_ > raw_ - raw_ / 32) {
                    incompressible_ = kProbeEvery;
                }
                raw_ = coded_ = 0;
            }
        }
    }
    if (worked_ + waited_ >= kWindowNs && packets_ >= kMinPackets) {
        Decide(link);
        last_ = link;
        worked_ = waited_ = packets_ = 0;
    }
}

void LevelPolicy::Decide(const LinkTimes &link) {
    windows_++;
    const uint64_t all = worked_ + waited_;
    // A share of the time in which the link, and nobody else, was what we waited for.
    uint64_t on_link = waited_;
    if (link.valid && last_.valid && link.busy >= last_.busy && link.receiver >= last_.receiver) {
        const uint64_t busy = link.busy - last_.busy, receiver = link.receiver - last_.receiver;
        on_link = std::min(waited_, 1000 * (busy > receiver ? busy - receiver : 0));
    }
    if (on_link * 2 > all) {
        if (step_ < kTop && windows_ >= hold_until_) {
            Move(+1);
        }
    } else if (on_link * 5 < all && step_ > 0) {
        // Going back on the last move: it is not made again so soon.
        if (last_move_ > 0) {
            hold_ = std::min<uint64_t>(hold_ * 2, 64);
            hold_until_ = windows_ + hold_;
        }
        Move(-1);
    }
}

void LevelPolicy::Move(int step) {
    step_ += step;
    last_move_ = step;
}

} // namespace gang
