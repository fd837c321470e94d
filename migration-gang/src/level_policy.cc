// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The policy's windows.

#include "level_policy.h"

#include <algorithm>

namespace gang {

int LevelPolicy::level() const { return incompressible_ ? kRaw : kLevels[step_]; }

void LevelPolicy::Packet(uint64_t worked_ns, uint64_t waited_ns, uint64_t raw_bytes,
                         uint64_t coded_bytes, const LinkState &link) {
    if (trying_) {
        Try(worked_ns + waited_ns, raw_bytes, link);
        return;
    }
    Reconsider(worked_ns + waited_ns, link);
    if (!link.valid || link.acked >= tried_until_ || !Behind(link)) {
        tried_until_ = 0;
        worked_ += worked_ns;
        waited_ += waited_ns;
        known_ += link.valid;
        behind_ += Behind(link);
        packets_ += raw_bytes != 0;
    } // else what is unsent is the trial's, or waits behind that
    if (raw_bytes) {
        if (incompressible_) {
            incompressible_--;
        } else if (kLevels[step_] != kRaw) {
            raw_ += raw_bytes;
            coded_ += coded_bytes;
            // So much that does not get smaller: neither will what follows, the more
            // so the longer it goes on.
            if (raw_ >= kProbeBytes) {
                if (coded_ > raw_ - raw_ / 32) {
                    incompressible_ = probe_after_;
                    probe_after_ = std::min(2 * probe_after_, kMaxProbeAfter);
                } else {
                    probe_after_ = kProbeAfter;
                }
                raw_ = coded_ = 0;
            }
        }
    }
    if (worked_ + waited_ >= kWindowNs && packets_ >= kMinPackets) {
        Decide(link);
        last_ = link;
        worked_ = waited_ = packets_ = behind_ = known_ = 0;
    }
}

void LevelPolicy::Compressed(uint64_t bytes, uint64_t ns) {
    if (made_ns_ > kWindowNs) {
        made_bytes_ /= 2;
        made_ns_ /= 2;
    }
    made_bytes_ += bytes;
    made_ns_ += ns;
}

// What arrives of raw packets is compared with what zstd would take in.
bool LevelPolicy::RawIsFaster(uint64_t acked, uint64_t ns) const {
    return made_ns_ && static_cast<double>(acked) * static_cast<double>(made_ns_) >
                           static_cast<double>(made_bytes_) * static_cast<double>(ns);
}

bool LevelPolicy::Behind(const LinkState &link) const {
    return link.valid && link.unsent > (kLevels[step_] == kRaw ? kBehindRawBytes : kBehindBytes);
}

// No move in this direction (0: down) for a while, each time for longer.
void LevelPolicy::Hold(int up) {
    hold_until_[up] = windows_ + hold_[up];
    hold_[up] = std::min(2 * hold_[up], kMaxHold);
}

// How fast the link is can only be seen with something to send.
void LevelPolicy::Try(uint64_t ns, uint64_t raw_bytes, const LinkState &link) {
    if (!link.valid) { // it will not be seen at all
        trying_ = false;
        step_ = kFirst;
        last_move_ = 0;
        return;
    }
    if (begun_ < kBegin) { // the receiver's window is still small
        begun_ += raw_bytes != 0;
        step_ = begun_ < kBegin ? kFirst : kRaw;
        last_ = link;
        try_acked_ = link.acked;
        return;
    }
    tried_bytes_ += raw_bytes;
    tried_ns_ += ns;
    if (Behind(link) && 2000 * (link.receiver_us - last_.receiver_us) < ns) {
        tries_behind_++;
        tried_unsent_ += link.unsent;
    }
    last_ = link;
    if (tries_behind_ >= kSlow || tried_unsent_ >= kSlowBytes) {
        trying_ = false;
        if (RawIsFaster(link.acked - try_acked_, tried_ns_)) {
            return;
        }
        step_ = kFirst;
        last_move_ = 0;
        backlog_ = link.unsent + raw_bytes;
        backlog_ns_ = 0;
        try_acked_ = link.acked;
        tried_until_ = link.acked ? link.acked + kTrialShare * backlog_ : 0;
        compress_until_ = windows_ + kHold;
    } else if (tried_bytes_ >= kTryBytes) {
        trying_ = false;
    }
}

// A receiver that did not get a CPU for a moment looks like a slow link.  How fast
// what the trial left behind has gone tells them apart, if by a wide margin: one
// channel may have a link for itself for so long.
void LevelPolicy::Reconsider(uint64_t ns, const LinkState &link) {
    if (!backlog_) {
        return;
    }
    backlog_ns_ += ns;
    if (!link.valid || !tried_until_) {
        backlog_ = 0;
    } else if (link.acked - try_acked_ >= backlog_) {
        if (RawIsFaster(backlog_ / kClearly, backlog_ns_)) {
            step_ = 0;
            tried_until_ = compress_until_ = 0;
            last_move_ = -1;
        }
        backlog_ = 0;
    }
}

void LevelPolicy::Decide(const LinkState &link) {
    windows_++;
    const uint64_t all = worked_ + waited_;
    // How much of the time the link, and nobody else, was what we waited for, in
    // eighths.
    uint64_t on_link = 8 * waited_ / all;
    if (known_) {
        on_link = 8 * behind_ / known_;
        if (last_.valid && 2000 * (link.receiver_us - last_.receiver_us) > all) {
            on_link = 0; // it is the receiver that cannot keep up
        }
    }
    if (kLevels[step_] == kRaw && RawIsFaster(link.acked - last_.acked, all)) {
        on_link = 0;
    }
    // The less it compresses, the less of the link it may take: bytes that others
    // could send are worth some CPU.  Raw pages are often found unsent because
    // nobody had a CPU to take them; a link that is too slow holds most of them up.
    static constexpr uint64_t kEnough[] = {4, 3, 5, 6, 6};
    // Above level 1 a link that is seldom waited for is not worth the CPU time.
    static constexpr uint64_t kTooLittle[] = {0, 0, 0, 2, 3};
    Vote(on_link >= kEnough[step_] ? +1 : on_link <= kTooLittle[step_] ? -1 : 0);
}

void LevelPolicy::Vote(int direction) {
    votes_ = direction * votes_ > 0 ? votes_ + direction : direction;
    const bool up = direction > 0;
    const bool raw = kLevels[step_] == kRaw;
    // -5 is on the way down only: a link that is too slow for raw pages gets level 1.
    const int next = up && raw ? kFirst : step_ + direction;
    const int needed = up ? (raw ? kVotesFromRaw : kVotes) : step_ <= kFirst ? kVotesBelow : kVotes;
    if (direction == 0 || next < 0 || next > kTop || votes_ * direction < needed ||
        windows_ < hold_until_[up] || (next < kFirst && windows_ < compress_until_)) {
        return;
    }
    if (last_move_ == -direction) { // the move before was wrong
        Hold(!up);
    }
    step_ = next;
    last_move_ = direction;
    votes_ = 0;
}

} // namespace gang
