// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One bandwidth for all: see pacer.h.

#include <algorithm>

#include "pacer.h"

namespace gang {

namespace {

// Of processes that all write the word at once; to lose is to charge too little once.
constexpr int kTries = 16;
constexpr double kNs = 1e9;
constexpr uint64_t kMaxBytes = uint64_t{1} << 50; // of one VM; what is more is nonsense

uint64_t Before(uint64_t now_ns, uint64_t ns) {
    return now_ns > ns ? now_ns - ns : 0;
}

// What does not make sense counts as paid for.
uint64_t Sane(uint64_t until, uint64_t now_ns) {
    return until > now_ns + Budget::kMaxDebtNs ? now_ns : until;
}

} // namespace

uint64_t Budget::Rate() const {
    return std::min(board_->header().budget.load(std::memory_order_relaxed), kMaxRate);
}

double Budget::Share(const BoardWatch &watch) const {
    double all = 0, own = 0;
    unsigned members = 0;
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        if (i != index_ && !watch.Lives(i)) {
            continue;
        }
        const BoardRecord &r = board_->record(i);
        // Who waits for its turn of any kind has nothing to send.
        if (i != index_ && r.stage.load(std::memory_order_relaxed) <=
                               static_cast<uint32_t>(BoardStage::kWaiting)) {
            continue;
        }
        double left = static_cast<double>(
            std::min(r.remaining.load(std::memory_order_relaxed), kMaxBytes));
        all += left;
        own += i == index_ ? left : 0;
        members++;
    }
    return 0.5 / members + 0.5 * (all > 0 ? own / all : 1.0 / members);
}

// Moves the gang's clock by `ns`, which may be negative.
void Budget::Advance(double ns, uint64_t now_ns) {
    Atomic<uint64_t> &clock = board_->header().paid_until;
    uint64_t was = clock.load(std::memory_order_relaxed);
    for (int i = 0; i < kTries; i++) {
        uint64_t from = std::max(Sane(was, now_ns), Before(now_ns, kWindowNs));
        double to = std::max(0.0, static_cast<double>(from) + ns);
        to = std::min(to, static_cast<double>(now_ns + kMaxDebtNs));
        if (clock.compare_exchange_weak(was, static_cast<uint64_t>(to),
                                        std::memory_order_relaxed)) {
            return;
        }
    }
}

void Budget::Charge(uint64_t bytes, uint64_t now_ns) {
    const double rate = static_cast<double>(Rate());
    if (rate == 0) {
        prepaid_ = 0;
        return;
    }
    // What had been taken beforehand is paid for; what of it was not sent goes back.
    double due = static_cast<double>(std::min(bytes, kMaxBytes)) - prepaid_;
    double own = std::max(0.0, due);
    prepaid_ = 0;
    Advance(due / rate * kNs, now_ns);
    own_until_ = std::max(own_until_, Before(now_ns, kWindowNs));
    own_until_ += static_cast<uint64_t>(
        std::min(own / (rate * share_) * kNs, static_cast<double>(kMaxOwnDebtNs)));
    own_until_ = std::min(own_until_, now_ns + kMaxOwnDebtNs);
}

uint64_t Budget::Credit(const BoardWatch &watch, bool alone, uint64_t now_ns) {
    const uint64_t whole = Rate();
    if (whole == 0) {
        rate_ = 0;
        return kNoLimit;
    }
    const double rate = static_cast<double>(whole);
    if (whole != rate_) { // what was owed at another rate
        rate_ = whole;
        own_until_ = 0;
    }
    share_ = alone ? 1.0 : Share(watch);
    own_until_ = std::max(own_until_, Before(now_ns, kWindowNs));
    double credit = 0;
    if (own_until_ < now_ns + kWindowNs) {
        credit = static_cast<double>(now_ns + kWindowNs - own_until_) / kNs * rate * share_;
    }
    // The gang's clock, too far ahead: all wait until it is right again.
    uint64_t was = board_->header().paid_until.load(std::memory_order_relaxed);
    uint64_t until = std::max(Sane(was, now_ns), Before(now_ns, kWindowNs));
    if (until > now_ns + 3 * kWindowNs) {
        return 0;
    }
    // Behind: nobody has used that time.  Who takes it pays at once, so that no
    // other takes it too.
    if (until < now_ns && board_->header().paid_until.compare_exchange_strong(
                              was, now_ns, std::memory_order_relaxed)) {
        prepaid_ = static_cast<double>(now_ns - until) / kNs * rate;
        credit += prepaid_;
    }
    return static_cast<uint64_t>(credit);
}

} // namespace gang
