// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// When a member sends: the gang's bandwidth (Budget), the switchover turn (Turns) and
// the places of the bulk phase (BulkPlaces), all on the board, and one Pacer for
// a member that asks the three.
//
// No clock but the one that is given, no waiting, no locks.  Whatever is read from
// the board is checked, and what is nonsense holds nobody up.  What one member
// that lives can make another wait for: a turn, Turns::kMaxTurnMs; its share of
// the bandwidth (or Budget::kMaxDebtNs, of a clock that is ahead); a place in the
// bulk phase, for as long as its own first round moves; and as the one that goes last,
// Pacer::kMaxLastMs.

#ifndef GANG_PACER_H
#define GANG_PACER_H

#include <cstdint>

#include "board.h"

namespace gang {

// Bytes a second for all members together.  Each may always send at its share of them,
// half of which is equal and half by what it has left; and what the others leave
// over, as far as the gang has not used it up: virtual scheduling (GCRA,
// ITU-T I.371) with one clock a member, which is its own, and one for the gang, which
// all share.  One that dies holds nothing but what is left of a tenth of a second.
class Budget {
  public:
    static constexpr uint64_t kWindowNs = 100'000'000;    // that a credit is for
    static constexpr uint64_t kMaxDebtNs = 1'000'000'000; // of the gang; more is nonsense
    static constexpr uint64_t kMaxOwnDebtNs = 60 * kMaxDebtNs; // packets are not divided
    static constexpr uint64_t kMaxRate = uint64_t{1} << 50;
    static constexpr uint64_t kNoLimit = UINT64_MAX;

    Budget(Board *board, uint32_t index) : board_(board), index_(index) {}
    // `bytes` have been sent since the last call.
    void Charge(uint64_t bytes, uint64_t now_ns);
    // How many may be sent in the next kWindowNs.  `alone`: the others do not send.
    uint64_t Credit(const BoardWatch &watch, bool alone, uint64_t now_ns);

  private:
    uint64_t Rate() const;
    double Share(const BoardWatch &watch) const;
    void Advance(double ns, uint64_t now_ns);

    Board *const board_;
    const uint32_t index_;
    uint64_t own_until_ = 0;   // what this member has sent pays for at its share
    uint64_t rate_ = 0;        // as of the last Credit()
    double share_ = 1.0;       // the same
    double prepaid_ = 0;       // bytes taken from what others left over
};

// A member that is about to converge asks for the turn; while one has it, the others
// send nothing.  It goes to the one that is nearest to convergence, of those that
// have lost the fewest; who holds it for longer than the board says, dies, or stands
// still loses it, and does not ask again for a while.
class Turns {
  public:
    static constexpr uint64_t kMaxTurnMs = 60'000;
    // That one lets others go first which are nearer and do not come.
    static constexpr uint64_t kCourtesyMs = 300;
    static constexpr uint64_t kMaxPenalty = 8; // turns' length before it asks again
    static constexpr uint64_t kLeadMs = 100;   // of one member's clock, as it has read it

    enum class Answer {
        kFree,   // nobody has it
        kOurs,   // the others wait
        kOthers, // send nothing
        kOff,    // there are no turns
    };

    Turns(Board *board, uint32_t index) : board_(board), index_(index) {}
    // `away`: bytes that are between this member and convergence; ignored unless
    // it wishes for the turn.  One that does not wish any more gives it back.
    Answer Ask(const BoardWatch &watch, bool wish, uint64_t away, uint64_t now_ms);
    void Release();
    // As Release(), and as if it had taken too long.
    void Lose(uint64_t now_ms);
    // Whether the other members that live have nothing under way.
    bool OthersAreQuiet(const BoardWatch &watch) const;
    // It may not ask now: it has lost too many.
    bool barred(uint64_t now_ms) const { return now_ms < not_before_ms_; }
    uint64_t since_ms() const { return since_ms_; } // when it was taken; valid while kOurs

  private:
    Board *const board_;
    const uint32_t index_;
    uint64_t word_ = 0; // what we wrote; 0: we have no turn
    uint64_t since_ms_ = 0;
    uint64_t not_before_ms_ = 0;
    uint64_t courteous_since_ms_ = 0;
    uint64_t lost_ = 0;
};

// At most so many members as the board says are in their first round, by priority,
// then in the order in which they joined.  A place of one that dies or stands still
// is free.  One whose destination does not answer leaves its place by itself, for its heart
// beats; when it is answered again it comes back, a while later.
class BulkPlaces {
  public:
    // That one waits for others which should go first but have not begun.
    static constexpr uint64_t kCourtesyMs = 2000;
    // That one stands back after it has been answered again.
    static constexpr uint64_t kStandBackMs = 3000;

    BulkPlaces(Board *board, uint32_t index) : board_(board), index_(index) {}
    // Whether this member may be in its first round.  `stalled`: nothing comes of it now.
    bool Enter(const BoardWatch &watch, bool stalled, uint64_t now_ms);
    // It does not ask, and nobody is to wait for it.
    bool stands_back(uint64_t now_ms) const { return now_ms < not_before_ms_; }
    void Leave();

  private:
    bool Has(uint64_t limit) const;

    Board *const board_;
    const uint32_t index_;
    uint32_t place_ = UINT32_MAX;
    uint64_t since_ms_ = 0;
    uint64_t not_before_ms_ = 0;
};

// One member's.  Used by its migration thread.
class Pacer {
  public:
    static constexpr uint64_t kPatienceMs = 2000; // with a heart that stands still
    static constexpr uint64_t kQuietMs = 500;     // for others to become quiet
    static constexpr uint64_t kIdleMs = 1500;     // of a turn in which nothing moves
    static constexpr uint64_t kStalledMs = 2000;  // of a place, with packets unanswered
    // That one lets all others go first: some of them may never arrive either.
    static constexpr uint64_t kMaxLastMs = 600'000;

    struct State {
        uint64_t remaining = 0;  // bytes of memory
        uint64_t wire_bytes = 0; // sent so far
        uint64_t in_flight = 0;  // packets that are not acknowledged
        bool first_round = true;
        bool wants_turn = false; // for it does not converge without
        bool stops_next = false; // near enough to stop the VM
        bool last = false;       // goes after all that are not last
    };
    struct Pace {
        bool send = true;
        bool may_stop = true; // if it is near enough
        bool our_turn = false;
        uint64_t bytes = Budget::kNoLimit; // that may be sent now
    };

    Pacer(Board *board, uint32_t index, uint32_t priority);
    Pace Next(const State &state, uint64_t now_ns);
    // No more will be sent, or not for long.
    void Release();

    void set_budget(uint64_t bytes_per_second) {
        board_->header().budget.store(bytes_per_second, std::memory_order_relaxed);
    }
    uint64_t budget() const { return board_->header().budget.load(std::memory_order_relaxed); }

  private:
    BoardRecord &mine() { return board_->record(index_); }
    void SetFlag(uint32_t flag, bool on);
    bool OthersComeFirst() const;

    Board *const board_;
    const uint32_t index_;
    BoardWatch watch_;
    Budget budget_;
    Turns turns_;
    BulkPlaces places_;
    uint64_t sent_ = 0;
    uint64_t in_flight_ = 0;
    uint64_t moved_ms_ = 0; // when one of the two last changed
    uint64_t last_since_ms_ = 0; // it waits as the last; 0: it does not
};

} // namespace gang

#endif
