// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Who has the link, and who may be in its first round: see pacer.h.

#include <algorithm>
#include <tuple>

#include "pacer.h"

namespace gang {

namespace {

constexpr unsigned kHolderBits = 8;
static_assert(kMaxMembers < (1u << kHolderBits));

} // namespace

Turns::Answer Turns::Ask(const BoardWatch &watch, bool wish, uint64_t away, uint64_t now_ms) {
    BoardHeader &h = board_->header();
    BoardRecord &mine = board_->record(index_);
    const uint64_t limit = std::min(h.turn_ms.load(std::memory_order_relaxed), kMaxTurnMs);
    wish = wish && limit > 0 && now_ms >= not_before_ms_;
    mine.turn_wish.store(wish ? std::max<uint64_t>(away + 1, 1) : 0, std::memory_order_relaxed);
    if (limit == 0) {
        Release();
        return Answer::kOff;
    }
    uint64_t word = h.turn.load(std::memory_order_acquire);
    const uint64_t holder = (word & ((1u << kHolderBits) - 1)) - 1;
    const uint64_t since = word >> kHolderBits;
    // Whoever took it may have read its clock later than we ours.
    const bool in_time = word != 0 && since <= now_ms + kLeadMs && now_ms < since + limit;
    if (word_ != 0 && word != word_) {
        word_ = 0; // taken for dead, or overwritten
    }
    if (word_ != 0) {
        if (in_time && wish) {
            return Answer::kOurs;
        }
        if (!in_time) {
            Lose(now_ms);
        }
        Release();
        return Answer::kFree;
    }
    if (in_time && holder < kMaxMembers && holder != index_ &&
        watch.Lives(static_cast<uint32_t>(holder))) {
        courteous_since_ms_ = 0;
        return Answer::kOthers;
    }
    if (!wish) {
        courteous_since_ms_ = 0;
        return Answer::kFree;
    }
    const auto key = std::make_tuple(lost_, away, index_);
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        const BoardRecord &r = board_->record(i);
        uint64_t wished = i == index_ ? 0 : r.turn_wish.load(std::memory_order_relaxed);
        uint64_t lost =
            std::min<uint64_t>(r.lost_turns.load(std::memory_order_relaxed), kMaxPenalty);
        if (wished == 0 || !watch.Lives(i) || std::make_tuple(lost, wished - 1, i) > key) {
            continue;
        }
        if (courteous_since_ms_ == 0) {
            courteous_since_ms_ = std::max<uint64_t>(now_ms, 1);
        }
        if (now_ms - courteous_since_ms_ < kCourtesyMs) {
            return Answer::kFree;
        }
        break;
    }
    courteous_since_ms_ = 0;
    const uint64_t taken = now_ms << kHolderBits | (index_ + 1);
    if (!h.turn.compare_exchange_strong(word, taken, std::memory_order_acq_rel)) {
        return Answer::kFree; // somebody was faster: the next look tells who
    }
    word_ = taken;
    since_ms_ = now_ms;
    mine.turns.fetch_add(1, std::memory_order_relaxed);
    return Answer::kOurs;
}

void Turns::Lose(uint64_t now_ms) {
    BoardRecord &mine = board_->record(index_);
    lost_ = std::min(lost_ + 1, kMaxPenalty);
    mine.lost_turns.fetch_add(1, std::memory_order_relaxed);
    mine.turn_wish.store(0, std::memory_order_relaxed);
    not_before_ms_ = now_ms + lost_ * std::min(board_->header().turn_ms.load(
                                                   std::memory_order_relaxed),
                                               kMaxTurnMs);
    Release();
}

void Turns::Release() {
    if (word_ != 0) {
        board_->header().turn.compare_exchange_strong(word_, 0, std::memory_order_acq_rel);
        word_ = 0;
    }
}

bool Turns::OthersAreQuiet(const BoardWatch &watch) const {
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        const BoardRecord &r = board_->record(i);
        if (i == index_ || !watch.Lives(i) ||
            r.stage.load(std::memory_order_relaxed) < static_cast<uint32_t>(BoardStage::kBulk)) {
            continue;
        }
        if (!(r.flags.load(std::memory_order_acquire) & kBoardQuiet)) {
            return false;
        }
    }
    return true;
}

bool BulkPlaces::Has(uint64_t limit) const {
    return place_ < limit && board_->header().bulk[place_].load(std::memory_order_acquire) ==
                                 index_ + 1;
}

bool BulkPlaces::Enter(const BoardWatch &watch, bool stalled, uint64_t now_ms) {
    BoardHeader &h = board_->header();
    const uint64_t limit = h.bulk_limit.load(std::memory_order_relaxed);
    if (limit == 0 || limit >= kMaxMembers) {
        Leave();
        not_before_ms_ = 0;
        return true;
    }
    if (stalled) {
        not_before_ms_ = now_ms + kStandBackMs;
    }
    if (stands_back(now_ms)) {
        Leave();
        return false;
    }
    if (Has(limit)) {
        return true;
    }
    Leave(); // another took it while we stood still, or there are fewer now
    if (since_ms_ == 0) {
        since_ms_ = std::max<uint64_t>(now_ms, 1);
    }
    const bool patient = now_ms - since_ms_ < kCourtesyMs;
    // Those who go first, and have no place.
    const auto key = [&](uint32_t i) {
        uint32_t p = board_->record(i).priority.load(std::memory_order_relaxed);
        return std::make_pair(UINT32_MAX - p, i);
    };
    uint64_t before = 0;
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        const uint32_t stage = board_->record(i).stage.load(std::memory_order_relaxed);
        if (i == index_ || !watch.Lives(i) || key(i) > key(index_)) {
            continue;
        }
        before += stage == static_cast<uint32_t>(BoardStage::kWaiting) ||
                  (stage == static_cast<uint32_t>(BoardStage::kStarting) && patient);
    }
    for (uint32_t place = 0; place < limit; place++) {
        uint32_t word = h.bulk[place].load(std::memory_order_acquire);
        if (word != 0 && word <= kMaxMembers && word != index_ + 1 && watch.Lives(word - 1)) {
            continue;
        }
        if (before > 0) {
            before--; // theirs
            continue;
        }
        if (h.bulk[place].compare_exchange_strong(word, index_ + 1, std::memory_order_acq_rel)) {
            place_ = place;
            return true;
        }
    }
    return false;
}

void BulkPlaces::Leave() {
    if (place_ < kMaxMembers) {
        uint32_t word = index_ + 1;
        board_->header().bulk[place_].compare_exchange_strong(word, 0, std::memory_order_acq_rel);
        place_ = UINT32_MAX;
    }
}

} // namespace gang
