// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The board: what the members of a gang at one source host tell each other about
// time instead of content.  Who sends, who is about to converge, how fast all
// together may be.  One small segment a gang, over all its stores; gangd makes it
// and hands it out before the directory.
//
// The rules of layout.h hold: no pointers, every change one atomic word, whatever
// is read is checked.  No byte of a VM depends on it.  Where each member stops and
// leaves by itself, one without a board, or with a board full of nonsense, migrates as
// one alone would; with all-or-nothing it does not begin, or gives the gang up, and
// runs on at the source (switchover.h).  A member that dies, stands still or whose
// destination does not answer holds no other up for long (DESIGN.md, invariant 4);
// those that go on can make others wait for as long as they need themselves: for a
// place in the bulk phase, for a bandwidth that was set low, for their readiness, up to
// the gang's limits.  pacer.h and switchover.h name the bounds.

#ifndef GANG_BOARD_H
#define GANG_BOARD_H

#include <cstddef>
#include <cstdint>
#include <memory>

#include "atomic.h"
#include "layout.h"
#include "segment.h"
#include "status.h"

namespace gang {

inline constexpr uint64_t kBoardMagic = 0x31445242474e4147ULL; // "GANGBRD1"
inline constexpr size_t kBoardPolicyWords = 8;

// How far a member is with its memory; grows, but for a member that waits again, or
// that has left its place in the bulk phase.
enum class BoardStage : uint32_t {
    kStarting = 0, // joins, scans, waits for the start, or for its destination to answer again
    kWaiting = 1,  // for a place in the bulk phase
    kBulk = 2,     // first round
    kRounds = 3,   // later rounds
    kSwitchover = 4,
};

// Bits of BoardRecord::flags.
inline constexpr uint32_t kBoardQuiet = 1; // nothing of it is under way to its destination
inline constexpr uint32_t kBoardLast = 2;  // lets all others go first

// Written by its own member only, but for `state`.
struct alignas(64) BoardRecord {
    Atomic<uint32_t> state;      // MemberState: kFree -> kAlive by gangd
    Atomic<uint32_t> pid;        // for status
    Atomic<uint64_t> heartbeat;  // grows while its migration thread does its work
    Atomic<uint64_t> remaining;  // bytes of memory still to send
    Atomic<uint32_t> priority;   // the higher, the earlier
    Atomic<uint32_t> stage;      // BoardStage
    Atomic<uint32_t> flags;      // kBoard...
    Atomic<uint32_t> lost_turns; // that passed without its switchover
    Atomic<uint64_t> turn_wish;  // 0: none; else bytes it is away from converging, + 1
    Atomic<uint64_t> sent;       // bytes on the wire so far
    // Of the switchover policy.
    alignas(64) Atomic<uint64_t> policy[kBoardPolicyWords];
    alignas(64) Atomic<uint64_t> turns; // that it has had
    Atomic<uint64_t> spare[7];
};
static_assert(sizeof(BoardRecord) == 192 && offsetof(BoardRecord, policy) == 64 &&
              offsetof(BoardRecord, turns) == 128);

struct BoardHeader {
    SegmentHeader segment;
    uint32_t max_members;
    uint32_t reserved0;
    uint64_t members_off; // BoardRecord[max_members]
    uint8_t reserved[16];
    // Bytes a second that all members together may send; 0: no limit.  Anybody's.
    alignas(64) Atomic<uint64_t> budget;
    // Up to when (CLOCK_MONOTONIC, ns) what has been sent pays for at that rate.
    Atomic<uint64_t> paid_until;
    // 0: free; else when it was taken (CLOCK_MONOTONIC, ms) << 8 | member + 1.
    alignas(64) Atomic<uint64_t> turn;
    Atomic<uint64_t> turn_ms;    // how long one may hold it; 0: there are no turns
    Atomic<uint64_t> bulk_limit; // members that may be in the bulk phase; 0: all
    // Of the switchover policy: which one, and what the whole gang agrees on.
    alignas(64) Atomic<uint64_t> policy[kBoardPolicyWords];
    alignas(64) Atomic<uint64_t> spare[8];
    // The places of the bulk phase, of which the first bulk_limit count: member + 1.
    alignas(64) Atomic<uint32_t> bulk[kMaxMembers];
};
static_assert(offsetof(BoardHeader, budget) == 64 && offsetof(BoardHeader, turn) == 128 &&
              offsetof(BoardHeader, policy) == 192 && offsetof(BoardHeader, bulk) == 320);
static_assert(sizeof(BoardHeader) == 832);

// A mapping of the board.  Thread-safe; constant but for the words in it.
class Board {
  public:
    // A new board without members; *fd is the caller's.
    static Status Create(int *fd);
    // Maps `fd`, which stays the caller's, and refuses what is no board of this build.
    static Status Open(int fd, std::unique_ptr<Board> *out);

    // A record for one more member (gangd).  kExhausted after kMaxMembers.
    Status AddMember(uint32_t pid, uint32_t *index);
    // The caller has checked that index < kMaxMembers.
    void SetState(uint32_t index, MemberState state) {
        records_[index].state.store(static_cast<uint32_t>(state), std::memory_order_release);
    }
    MemberState state(uint32_t index) const {
        return static_cast<MemberState>(records_[index].state.load(std::memory_order_acquire));
    }
    BoardHeader &header() { return *header_; }
    const BoardHeader &header() const { return *header_; }
    BoardRecord &record(uint32_t index) { return records_[index]; }
    const BoardRecord &record(uint32_t index) const { return records_[index]; }
    int fd() const { return fd_; } // of the segment; stays the board's
    ~Board();

  private:
    Board() = default;

    Segment segment_;
    int fd_ = -1;
    BoardHeader *header_ = nullptr;
    BoardRecord *records_ = nullptr;
};

// Which members live, as one member sees it: of those whose socket gangd has seen
// to end it says so; one that is stopped, or that has died after gangd did, is known
// by its heart, which stands still.  Not thread-safe: one thread's, or under a lock.
class BoardWatch {
  public:
    // `now_ms` must not go back from call to call: where several threads call, the one
    // that read its clock first may come second, and whoever holds the lock evens it out
    // (Switchover::Latest).
    BoardWatch(const Board *board, uint64_t patience_ms)
        : board_(board), patience_ms_(patience_ms) {}
    void Observe(uint64_t now_ms);
    // As of the last Observe().
    bool Lives(uint32_t index) const { return seen_[index].lives; }

  private:
    struct Seen {
        uint64_t heartbeat = 0;
        uint64_t since_ms = 0;
        bool lives = false;
    };
    const Board *const board_;
    const uint64_t patience_ms_;
    Seen seen_[kMaxMembers];
};

} // namespace gang

#endif
