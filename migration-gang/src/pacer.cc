// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One member's pace: see pacer.h.

#include "pacer.h"

#include <algorithm>

namespace gang {

Pacer::Pacer(Board *board, uint32_t index, uint32_t priority)
    : board_(board), index_(index), watch_(board, kPatienceMs), budget_(board, index),
      turns_(board, index), places_(board, index) {
    mine().priority.store(priority, std::memory_order_relaxed);
}

void Pacer::SetFlag(uint32_t flag, bool on) {
    uint32_t flags = mine().flags.load(std::memory_order_relaxed);
    mine().flags.store(on ? flags | flag : flags & ~flag, std::memory_order_release);
}

bool Pacer::OthersComeFirst() const {
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        const uint32_t flags = board_->record(i).flags.load(std::memory_order_relaxed);
        if (i != index_ && watch_.Lives(i) && !(flags & kBoardLast)) {
            return true;
        }
    }
    return false;
}

Pacer::Pace Pacer::Next(const State &state, uint64_t now_ns) {
    const uint64_t now_ms = now_ns / 1'000'000;
    Pace pace;
    mine().heartbeat.fetch_add(1, std::memory_order_relaxed);
    mine().remaining.store(state.remaining, std::memory_order_relaxed);
    mine().sent.store(state.wire_bytes, std::memory_order_relaxed);
    watch_.Observe(now_ms);
    budget_.Charge(state.wire_bytes - sent_, now_ns);
    if (state.wire_bytes != sent_ || state.in_flight != in_flight_) {
        moved_ms_ = now_ms;
    }
    sent_ = state.wire_bytes;
    in_flight_ = state.in_flight;

    BoardStage stage = BoardStage::kRounds;
    if (state.first_round) {
        // Waits as such before it looks, so that those behind see it.
        const bool stalled = state.in_flight > 0 && now_ms - moved_ms_ > kStalledMs;
        if (!stalled && !places_.stands_back(now_ms) &&
            mine().stage.load(std::memory_order_relaxed) <
                static_cast<uint32_t>(BoardStage::kWaiting)) {
            mine().stage.store(static_cast<uint32_t>(BoardStage::kWaiting),
                               std::memory_order_release);
        }
        pace.send = places_.Enter(watch_, stalled, now_ms);
        stage = pace.send                     ? BoardStage::kBulk
                : places_.stands_back(now_ms) ? BoardStage::kStarting // no place is kept for it
                                              : BoardStage::kWaiting;
    } else {
        places_.Leave();
        if (state.stops_next) {
            stage = BoardStage::kSwitchover;
        }
    }
    mine().stage.store(static_cast<uint32_t>(stage), std::memory_order_release);

    SetFlag(kBoardLast, state.last);
    if (!state.last) {
        last_since_ms_ = 0;
    } else if (last_since_ms_ == 0) {
        last_since_ms_ = std::max<uint64_t>(now_ms, 1);
    }
    const bool waits_as_last =
        state.last && now_ms - last_since_ms_ < kMaxLastMs && OthersComeFirst();
    const bool wish = pace.send && !waits_as_last && (state.wants_turn || state.stops_next);
    switch (turns_.Ask(watch_, wish, state.remaining, now_ms)) {
    case Turns::Answer::kOurs:
        if (now_ms - std::max(moved_ms_, turns_.since_ms()) >= kIdleMs) {
            turns_.Lose(now_ms); // its destination does not answer: nobody gains by it
            break;
        }
        pace.our_turn = true;
        pace.may_stop = turns_.OthersAreQuiet(watch_) || now_ms - turns_.since_ms() >= kQuietMs;
        break;
    case Turns::Answer::kOthers:
        pace.send = false;
        break;
    case Turns::Answer::kFree:
        // Another is nearer, and will have it at once, or we have had too many.
        pace.may_stop = !state.stops_next || turns_.barred(now_ms);
        break;
    case Turns::Answer::kOff:
        break;
    }
    if (waits_as_last) {
        pace.send = false;
    }
    SetFlag(kBoardQuiet, !pace.send && state.in_flight == 0);
    if (pace.send) {
        pace.bytes = budget_.Credit(watch_, pace.our_turn, now_ns);
        // The last round is not held back: its VM would be the one to wait.
        pace.send = pace.bytes > 0 || state.stops_next;
    }
    return pace;
}

void Pacer::Release() {
    turns_.Release();
    places_.Leave();
}

} // namespace gang
