// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A gang's migration in one process and in steps: guests that write, packets
// and acknowledgements under way in any order, members that die.  What QEMU's
// migration thread would do with dirty pages is done here in its plainest form.

#ifndef GANG_SIMULATION_H
#define GANG_SIMULATION_H

#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "test_vm.h"

namespace gang::test {

class Simulation {
  public:
    struct Config {
        size_t members = 1;
        size_t pages = 1;      // of each member
        uint64_t slots = 1;    // of the store
        uint64_t contents = 2; // different pages there are; few: many duplicates
        unsigned zstd = 0;     // bit m: member m compresses
        unsigned subpage = 0;  // bit m: member m shares blocks, but no deltas
        uint64_t mirror_pages = 0; // that pages may be coded against
        unsigned alone = 0;    // bit m: member m has no directory
    };

    explicit Simulation(const Config &config);
    ~Simulation();

    size_t members() const { return vms_.size(); }

    // Every member scans, in turn.
    void ScanAll();
    // The guest writes `count` random pages.
    void Write(size_t member, size_t count, Rng &rng);
    // One packet of up to `count` dirty pages; `writes` pages are written while
    // it is made, and as many before it is read for sending.
    void Encode(size_t member, size_t count, size_t writes, Rng &rng);
    // The destination takes the next packet.  An error is a broken promise.
    Status Deliver(size_t member);
    // The next acknowledgement reaches the source.
    void Ack(size_t member);
    // Deferred pages that can be decided become dirty again.
    void TakeReady(size_t member);
    void Kill(size_t member);
    // `ms` pass.
    void Pass(uint64_t ms);
    // The guest stops, what is left is sent.  Then its memory must be the same.
    Status Finish(size_t member);
    bool Identical(size_t member) const { return vms_[member]->vm->Identical(); }
    bool Running(size_t member) const { return vms_[member]->state == State::kRunning; }
    const Gang &gang() const { return gang_; }

  private:
    enum class State {
        kRunning,
        kFinished,
        kDead
    };
    struct Member {
        std::unique_ptr<StallWatch> stalls;
        std::unique_ptr<TestVm> vm;
        PageCache cache{16 * kPageSize}; // small: pages take each other's places
        bool alone = false;
        State state = State::kRunning;
        std::set<size_t> dirty;
        std::deque<Bytes> packets;
        std::deque<uint32_t> acks;
    };
    void WriteOne(Member *m, Rng &rng);
    uint64_t Content(Rng &rng) const;
    static bool HookedIsZero(const void *page, size_t size);

    Gang gang_;
    uint64_t contents_;
    uint64_t now_ms_ = 0;
    std::vector<std::unique_ptr<Member>> vms_;
};

} // namespace gang::test

#endif
