// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// When the VMs of a gang stop, and whether they leave the source: the policies
// together and all-or-nothing, in the board's policy words.
//
//            near its end          all who live are ready: one of them sets the go
//   running --------------> ready ----------------------------------------------> stopped
//      ^                      |                                                      |
//      +----------------------+                     together: leaves when it has sent its all
//        writes too much again                                                       |
//                                                                 all-or-nothing     v
//      the destination has loaded all but the last byte, which starts it       (sends RAM
//   prepared <-------------------------------------------------------------   and devices)
//      |
//      | all are prepared: one of them sets the decision to `committed`
//      v
//   leaves
//
// all-or-nothing: whoever finds that a member died, left, is silent, was cancelled, or
// is late sets the decision to `given up`, and every member runs on at the source. While a
// prepared one has not been seen to live for a second nothing is committed. Both decisions
// are one compare-and-swap of one word from `open`: exactly one of them happens, whoever
// ends between any two instructions.
//
// together: who is not ready in time is not waited for; it stops when it can.

#ifndef GANG_SWITCHOVER_H
#define GANG_SWITCHOVER_H

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "board.h"

namespace gang {

enum class SwitchoverPolicy : uint32_t {
    kInvalid = 0,
    kIndependent = 1,
    kTogether = 2,
    kAllOrNothing = 3,
};

// What a policy is called in messages; nullptr: no such policy.
const char *SwitchoverPolicyName(SwitchoverPolicy policy);
bool SwitchoverPolicyFromName(const std::string &name, SwitchoverPolicy *policy);

// BoardHeader::policy
inline constexpr size_t kBoardPolicy = 0;    // SwitchoverPolicy; gangd's, as the next two
inline constexpr size_t kBoardReadyMs = 1;   // how long a ready member waits for the others
inline constexpr size_t kBoardStoppedMs = 2; // how long a stopped one does
inline constexpr size_t kBoardMembers = 3;   // in the gang, whether they have come or not; gangd's
inline constexpr size_t kBoardGo = 4; // when to stop (CLOCK_MONOTONIC, ns); bit 0: all were ready
inline constexpr size_t kBoardDecision = 5; // 0: open; else a GangDecision

// BoardRecord::policy
inline constexpr size_t kMemberStep = 0;   // SwitchoverStep
inline constexpr size_t kMemberStopNs = 1; // CLOCK_MONOTONIC; 0: has not stopped
inline constexpr size_t kMemberLate = 2;   // 1: the others did not wait for it

enum class SwitchoverStep : uint64_t {
    kRunning = 0,
    kReady = 1,
    kStopped = 2,
    kPrepared = 3,
};

// Why a gang was given up.
enum class GiveUpReason : uint8_t {
    kNone = 0,
    kDied = 1,   // gangd saw its connection end
    kLeft = 2,   // it left, and had not said why
    kSilent = 3, // it lives, perhaps, and does nothing
    kCancelled = 4,
    kFailed = 5,
    kNotReady = 6,    // in time
    kNotPrepared = 7, // in time; all were stopped
};

struct GangDecision {
    enum class Verdict : uint8_t {
        kOpen = 0,
        kCommitted = 1,
        kGivenUp = 2
    };
    Verdict verdict = Verdict::kOpen;
    GiveUpReason reason = GiveUpReason::kNone;
    uint32_t member = kMaxMembers; // that it was for; kMaxMembers: not known

    // What makes no sense counts as given up: nobody leaves.
    static GangDecision Of(uint64_t word);
    uint64_t word() const;
};

// Figures of a gang's switchover, from the board.
struct SwitchoverFigures {
    SwitchoverPolicy policy = SwitchoverPolicy::kInvalid;
    GangDecision decision;
    uint32_t ready = 0;   // or further
    uint32_t stopped = 0; // or further
    uint32_t late = 0;    // of those; not in the skew
    uint64_t skew_ns = 0; // between the first stop and the last
};
SwitchoverFigures ReadSwitchover(const Board &board);

// gangd: a new board's words.  0 ms: the default.
void InitSwitchover(Board *board, SwitchoverPolicy policy, uint32_t members, uint64_t ready_ms,
                    uint64_t stopped_ms);

// Anybody: nobody leaves the source.  False: they do, it is committed.  Without effect where
// the policy is not all-or-nothing.
bool GiveUpSwitchover(Board *board, GiveUpReason reason, uint32_t member);

inline constexpr uint64_t kDefaultReadyMs = 600 * 1000;
inline constexpr uint64_t kDefaultStoppedMs = 10 * 1000;
inline constexpr uint64_t kMaxWaitMs = 3600 * 1000; // as much as gangd takes; members clamp to it
// A member whose heart has stood still for so long is not waited for.
inline constexpr uint64_t kSilentMs = 10 * 1000;
// Nobody leaves while the heart of another that is prepared has stood still for so long: it
// may be dead, with no gangd to say so.  Ends nothing, for it may also be slow.  A
// prepared member beats twice a millisecond.
inline constexpr uint64_t kRecentMs = 1000;
// From the moment that all are ready until they stop: as long as a round may take.
inline constexpr uint64_t kGoLeadNs = 100 * 1000 * 1000;

// One member's part.  Thread-safe; `now_ns` is CLOCK_MONOTONIC, the same for all
// processes of a host, as the caller has read it: of two threads' calls the second may
// have the earlier one.
class Switchover {
  public:
    enum class Verdict {
        kWait,
        kGo,
        kGivenUp
    };

    // The board outlives it.
    Switchover(Board *board, uint32_t index, SwitchoverPolicy policy);

    // Each iteration.  kGo: stop the VM now, whatever is still to be sent.
    Verdict MustStop(uint64_t now_ns);
    // Each iteration that has looked at the dirty log. `near`: were it alone, it would stop.
    Verdict MayStop(bool near, uint64_t now_ns);
    // The VM has stopped.
    void Stopped(uint64_t now_ns);
    // When the management layer has let it go on.  kGo: the destination may start.
    // `prepared`: it has all but the word to.
    Verdict MayLeave(bool prepared, uint64_t now_ns);
    // As GiveUpSwitchover(), for this member.
    // True too where the board claims a commit that this member had no part in.
    bool GiveUp(GiveUpReason reason);

    // Says why, for people, once a verdict was kGivenUp.
    std::string Why() const;
    SwitchoverPolicy policy() const { return policy_; }
    uint64_t stop_ns() const;
    bool late() const;

  private:
    // Callers read the clock before they have the lock: whoever gets it second may come
    // with the earlier time.  Time never goes back here, for what is subtracted is unsigned.
    uint64_t Latest(uint64_t now_ns) { return last_ns_ = std::max(last_ns_, now_ns); }
    Verdict MustStopLocked(uint64_t now_ns);
    Verdict Settled();
    bool Bound(uint64_t go) const;
    void CheckMembers(uint64_t now_ns);
    bool AllReady(uint32_t *first_missing) const;
    bool AllPrepared(uint32_t *first_missing) const;
    Atomic<uint64_t> &mine(size_t word) { return board_->record(index_).policy[word]; }
    const Atomic<uint64_t> &mine(size_t word) const { return board_->record(index_).policy[word]; }
    Atomic<uint64_t> &shared(size_t word) const { return board_->header().policy[word]; }

    Board *const board_;
    const uint32_t index_;
    const SwitchoverPolicy policy_;
    uint64_t ready_ns_, stopped_ns_; // the board's limits

    mutable std::mutex mutex_; // guards what follows
    uint64_t last_ns_ = 0; // of the clock
    BoardWatch watch_, recent_;
    // What this member has said is decided by from here: anybody can write its record.
    bool ready_ = false;
    bool prepared_ = false;      // has said so once
    uint64_t ready_since_ = 0;   // first time; 0: has never been ready
    uint64_t go_since_ = 0;      // first time that it set the go
    uint64_t leaving_since_ = 0; // first time
    GangDecision settled_;       // once seen, it stays
};

} // namespace gang

#endif
