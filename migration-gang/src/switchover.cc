// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The words of the switchover policies: see switchover.h.

#include "switchover.h"

#include <algorithm>

namespace gang {

namespace {

constexpr uint64_t kNsOfMs = 1000 * 1000;

uint64_t Limit(uint64_t ms, uint64_t otherwise) {
    return std::min(ms ? ms : otherwise, kMaxWaitMs) * kNsOfMs;
}

SwitchoverStep StepOf(const Board &board, uint32_t index) {
    return static_cast<SwitchoverStep>(
        board.record(index).policy[kMemberStep].load(std::memory_order_acquire));
}

// How many records have ever been taken: they are, one after the other, and not given back.
uint32_t Records(const Board &board) {
    uint32_t n = 0;
    while (n < kMaxMembers && board.state(n) != MemberState::kFree) {
        n++;
    }
    return n;
}

} // namespace

const char *SwitchoverPolicyName(SwitchoverPolicy policy) {
    switch (policy) {
    case SwitchoverPolicy::kIndependent:
        return "independent";
    case SwitchoverPolicy::kTogether:
        return "together";
    case SwitchoverPolicy::kAllOrNothing:
        return "all-or-nothing";
    case SwitchoverPolicy::kInvalid:
        break;
    }
    return nullptr;
}

bool SwitchoverPolicyFromName(const std::string &name, SwitchoverPolicy *policy) {
    for (SwitchoverPolicy known : {SwitchoverPolicy::kIndependent, SwitchoverPolicy::kTogether,
                                   SwitchoverPolicy::kAllOrNothing}) {
        if (name == SwitchoverPolicyName(known)) {
            *policy = known;
            return true;
        }
    }
    return false;
}

GangDecision GangDecision::Of(uint64_t word) {
    GangDecision d;
    if (word == 0) {
        return d;
    }
    d.verdict = word == 1 ? Verdict::kCommitted : Verdict::kGivenUp;
    if (d.verdict == Verdict::kGivenUp && (word & 0xff) == 2) {
        d.reason = static_cast<GiveUpReason>(word >> 8 & 0xff);
        d.member = std::min(static_cast<uint32_t>(word >> 16), kMaxMembers);
    }
    return d;
}

uint64_t GangDecision::word() const {
    switch (verdict) {
    case Verdict::kOpen:
        return 0;
    case Verdict::kCommitted:
        return 1;
    case Verdict::kGivenUp:
        break;
    }
    return uint64_t{2} | uint64_t{static_cast<uint8_t>(reason)} << 8 | uint64_t{member} << 16;
}

SwitchoverFigures ReadSwitchover(const Board &board) {
    SwitchoverFigures f;
    const uint64_t policy = board.header().policy[kBoardPolicy].load(std::memory_order_relaxed);
    if (policy <= static_cast<uint64_t>(SwitchoverPolicy::kAllOrNothing)) {
        f.policy = static_cast<SwitchoverPolicy>(policy);
    }
    f.decision =
        GangDecision::Of(board.header().policy[kBoardDecision].load(std::memory_order_acquire));
    uint64_t first = UINT64_MAX, last = 0;
    for (uint32_t i = 0, n = Records(board); i < n; i++) {
        f.ready += StepOf(board, i) >= SwitchoverStep::kReady;
        uint64_t at = board.record(i).policy[kMemberStopNs].load(std::memory_order_relaxed);
        if (at == 0) {
            continue;
        }
        f.stopped++;
        if (board.record(i).policy[kMemberLate].load(std::memory_order_relaxed)) {
            f.late++;
            continue;
        }
        first = std::min(first, at);
        last = std::max(last, at);
    }
    f.skew_ns = last > first ? last - first : 0;
    return f;
}

void InitSwitchover(Board *board, SwitchoverPolicy policy, uint32_t members, uint64_t ready_ms,
                    uint64_t stopped_ms) {
    auto &words = board->header().policy;
    words[kBoardReadyMs].store(ready_ms, std::memory_order_relaxed);
    words[kBoardStoppedMs].store(stopped_ms, std::memory_order_relaxed);
    words[kBoardMembers].store(members, std::memory_order_relaxed);
    words[kBoardPolicy].store(static_cast<uint64_t>(policy), std::memory_order_release);
}

bool GiveUpSwitchover(Board *board, GiveUpReason reason, uint32_t member) {
    auto &words = board->header().policy;
    if (words[kBoardPolicy].load(std::memory_order_acquire) !=
        static_cast<uint64_t>(SwitchoverPolicy::kAllOrNothing)) {
        return true;
    }
    GangDecision d;
    d.verdict = GangDecision::Verdict::kGivenUp;
    d.reason = reason;
    d.member = member;
    uint64_t word = 0;
    return words[kBoardDecision].compare_exchange_strong(word, d.word(),
                                                         std::memory_order_acq_rel) ||
           GangDecision::Of(word).verdict != GangDecision::Verdict::kCommitted;
}

Switchover::Switchover(Board *board, uint32_t index, SwitchoverPolicy policy)
    : board_(board), index_(index), policy_(policy),
      ready_ns_(Limit(shared(kBoardReadyMs).load(std::memory_order_relaxed), kDefaultReadyMs)),
      stopped_ns_(
          Limit(shared(kBoardStoppedMs).load(std::memory_order_relaxed), kDefaultStoppedMs)),
      watch_(board, kSilentMs), recent_(board, kRecentMs) {}

bool Switchover::GiveUp(GiveUpReason reason) {
    std::lock_guard lock(mutex_);
    return GiveUpSwitchover(board_, reason, index_) || !prepared_;
}

// What the gang has decided; what was seen once is not looked up again.  There is no commit
// before this member is prepared: one that is claimed then makes no sense.
Switchover::Verdict Switchover::Settled() {
    if (settled_.verdict == GangDecision::Verdict::kOpen) {
        settled_ = GangDecision::Of(shared(kBoardDecision).load(std::memory_order_acquire));
        if (settled_.verdict == GangDecision::Verdict::kCommitted && !prepared_) {
            settled_ = GangDecision::Of(UINT64_MAX);
        }
    }
    switch (settled_.verdict) {
    case GangDecision::Verdict::kOpen:
        return Verdict::kWait;
    case GangDecision::Verdict::kCommitted:
        return Verdict::kGo;
    case GangDecision::Verdict::kGivenUp:
        break;
    }
    return Verdict::kGivenUp;
}

// Gives up for a member that cannot come any more.
void Switchover::CheckMembers(uint64_t now_ns) {
    watch_.Observe(now_ns / kNsOfMs);
    recent_.Observe(now_ns / kNsOfMs);
    for (uint32_t i = 0, n = Records(*board_); i < n; i++) {
        GiveUpReason reason;
        switch (board_->state(i)) {
        case MemberState::kAlive:
            if (i == index_ || watch_.Lives(i)) {
                continue;
            }
            // Not Records() before it, but this very look counts: it may have left just now.
            reason = GiveUpReason::kSilent;
            break;
        case MemberState::kLeft:
            reason = GiveUpReason::kLeft;
            break;
        default:
            reason = GiveUpReason::kDied;
            break;
        }
        // In vain when it left because it could: that was after the commit.
        GiveUpSwitchover(board_, reason, i);
        return;
    }
}

bool Switchover::AllReady(uint32_t *first_missing) const {
    uint32_t ready = 0;
    const uint32_t n = Records(*board_);
    for (uint32_t i = 0; i < n; i++) {
        if (StepOf(*board_, i) >= SwitchoverStep::kReady) {
            ready++;
        } else if (policy_ == SwitchoverPolicy::kAllOrNothing ||
                   (board_->state(i) == MemberState::kAlive && watch_.Lives(i))) {
            *first_missing = i;
            return false;
        }
    }
    if (policy_ == SwitchoverPolicy::kAllOrNothing &&
        ready != shared(kBoardMembers).load(std::memory_order_relaxed)) {
        *first_missing = kMaxMembers;
        return false;
    }
    return true;
}

// Never of fewer members than the gang has: one that has no record is none that is prepared.
// What was prepared may have died since, where no gangd says so: only a heart that beats counts.
bool Switchover::AllPrepared(uint32_t *first_missing) const {
    const uint32_t n = Records(*board_);
    for (uint32_t i = 0; i < n; i++) {
        if (StepOf(*board_, i) != SwitchoverStep::kPrepared ||
            board_->state(i) != MemberState::kAlive || (i != index_ && !recent_.Lives(i))) {
            *first_missing = i;
            return false;
        }
    }
    *first_missing = kMaxMembers;
    return n > 0 && n == shared(kBoardMembers).load(std::memory_order_relaxed);
}

// Who was ready when the go was set is waited for by the others, even if it writes more by
// now.  Who has never been may have all its RAM unsent: no word on the board stops it.
bool Switchover::Bound(uint64_t go) const { return ready_ || ((go & 1) && ready_since_ != 0); }

Switchover::Verdict Switchover::MustStopLocked(uint64_t now_ns) {
    now_ns = Latest(now_ns);
    board_->record(index_).heartbeat.fetch_add(1, std::memory_order_relaxed);
    if (policy_ == SwitchoverPolicy::kAllOrNothing) {
        if (Settled() == Verdict::kWait) {
            CheckMembers(now_ns);
        }
        if (Settled() == Verdict::kGivenUp) {
            return Verdict::kGivenUp;
        }
    } else {
        watch_.Observe(now_ns / kNsOfMs);
    }
    const uint64_t go = shared(kBoardGo).load(std::memory_order_acquire);
    if (go == 0) {
        return Verdict::kWait;
    }
    // A time that nobody can have meant is past. Whoever set it may have read its clock
    // later than we ours.
    const uint64_t when = go & ~uint64_t{1};
    return Bound(go) && (now_ns >= when || when - now_ns > 2 * kGoLeadNs) ? Verdict::kGo
                                                                          : Verdict::kWait;
}

Switchover::Verdict Switchover::MustStop(uint64_t now_ns) {
    std::lock_guard lock(mutex_);
    return MustStopLocked(now_ns);
}

Switchover::Verdict Switchover::MayStop(bool near, uint64_t now_ns) {
    std::lock_guard lock(mutex_);
    now_ns = Latest(now_ns);
    const Verdict verdict = MustStopLocked(now_ns);
    if (verdict != Verdict::kWait) {
        return verdict;
    }
    uint64_t go = shared(kBoardGo).load(std::memory_order_acquire);
    const auto ready = static_cast<uint64_t>(SwitchoverStep::kReady);
    if (go != 0) {
        if (Bound(go) || !near) {
            return Verdict::kWait; // for the time that was set, or until it is near
        }
        mine(kMemberLate).store(1, std::memory_order_relaxed);
        return Verdict::kGo; // nobody waits for it
    }
    if (near != ready_) {
        ready_ = near;
        mine(kMemberStep)
            .store(near ? ready : static_cast<uint64_t>(SwitchoverStep::kRunning),
                   std::memory_order_release);
    }
    if (!near) {
        return Verdict::kWait;
    }
    if (ready_since_ == 0) {
        ready_since_ = now_ns;
    }
    if (go_since_ != 0 && now_ns - go_since_ > 2 * kGoLeadNs) {
        return Verdict::kGo; // somebody takes the go back: this one's own time has come
    }
    uint32_t missing = kMaxMembers;
    const uint64_t when = (now_ns + kGoLeadNs) & ~uint64_t{1};
    if (AllReady(&missing)) {
        go_since_ = go_since_ ? go_since_ : now_ns;
        shared(kBoardGo).compare_exchange_strong(go, when | 1, std::memory_order_acq_rel);
    } else if (now_ns - ready_since_ >= ready_ns_) {
        if (policy_ == SwitchoverPolicy::kAllOrNothing) {
            GiveUpSwitchover(board_, GiveUpReason::kNotReady, missing);
            return Settled() == Verdict::kGivenUp ? Verdict::kGivenUp : Verdict::kWait;
        }
        go_since_ = go_since_ ? go_since_ : now_ns;
        shared(kBoardGo).compare_exchange_strong(go, when, std::memory_order_acq_rel);
    }
    return Verdict::kWait;
}

void Switchover::Stopped(uint64_t now_ns) {
    mine(kMemberStopNs).store(now_ns, std::memory_order_relaxed);
    mine(kMemberStep)
        .store(static_cast<uint64_t>(SwitchoverStep::kStopped), std::memory_order_release);
}

Switchover::Verdict Switchover::MayLeave(bool prepared, uint64_t now_ns) {
    if (policy_ != SwitchoverPolicy::kAllOrNothing) {
        return Verdict::kGo;
    }
    std::lock_guard lock(mutex_);
    now_ns = Latest(now_ns);
    board_->record(index_).heartbeat.fetch_add(1, std::memory_order_relaxed);
    if (leaving_since_ == 0) {
        leaving_since_ = now_ns;
    }
    if (Verdict verdict = Settled(); verdict != Verdict::kWait) {
        return verdict;
    }
    const auto done = static_cast<uint64_t>(SwitchoverStep::kPrepared);
    prepared_ |= prepared;
    if (prepared && mine(kMemberStep).load(std::memory_order_relaxed) != done) {
        mine(kMemberStep).store(done, std::memory_order_release);
    }
    recent_.Observe(now_ns / kNsOfMs);
    uint32_t missing = kMaxMembers;
    if (AllPrepared(&missing) && prepared_) {
        GangDecision d;
        d.verdict = GangDecision::Verdict::kCommitted;
        uint64_t word = 0;
        shared(kBoardDecision).compare_exchange_strong(word, d.word(), std::memory_order_acq_rel);
    } else if (now_ns - leaving_since_ >= stopped_ns_) {
        GiveUpSwitchover(board_, GiveUpReason::kNotPrepared, missing);
    } else {
        CheckMembers(now_ns);
    }
    return Settled();
}

std::string Switchover::Why() const {
    std::lock_guard lock(mutex_);
    std::string who = "a member";
    if (settled_.member == index_) {
        who = "this VM";
    } else if (settled_.member < kMaxMembers) {
        who = "member " + std::to_string(settled_.member) + " (pid " +
              std::to_string(board_->record(settled_.member).pid.load(std::memory_order_relaxed)) +
              ")";
    }
    std::string what;
    switch (settled_.reason) {
    case GiveUpReason::kDied:
        what = " died";
        break;
    case GiveUpReason::kSilent:
        what = " does nothing any more";
        break;
    case GiveUpReason::kCancelled:
        what = " was cancelled";
        break;
    case GiveUpReason::kNotReady:
        what = " was not near its end in time (gangd --ready-timeout)";
        break;
    case GiveUpReason::kNotPrepared:
        what = " was not ready to leave while the others stood still (gangd --stopped-timeout)";
        break;
    default:
        what = " failed";
        break;
    }
    return "the gang moves all-or-nothing, and " + who + what + ": no VM leaves the source";
}

uint64_t Switchover::stop_ns() const {
    return mine(kMemberStopNs).load(std::memory_order_relaxed);
}

bool Switchover::late() const {
    return mine(kMemberLate).load(std::memory_order_relaxed) != 0;
}

} // namespace gang
