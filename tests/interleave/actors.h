// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Who acts in a gang, as far as shared memory is concerned: members' channels,
// their destinations with the return path, and gangd.  What a channel does with a
// page follows Encoder::Decide() step by step.

#ifndef GANG_ACTORS_H
#define GANG_ACTORS_H

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "explorer.h"
#include "stall_watch.h"
#include "world.h"

namespace gang::interleave {

// What the tester's own actors can do wrong, to see whether it is noticed.
enum class Misdeed {
    kNothing,
    kAckBeforeApply, // the return path confirms what the destination has only received
    kAckAhead,       // it confirms one packet more than was applied
    kReuseSlot,      // a take-over publishes in the dead member's slot
    kKeepSlot,       // two pages of a channel are published in one slot
    kBaseUnchecked,  // a base is used before its slot is confirmed
};

struct Plan {
    World::Config world;
    // Of each member's channel 0, before it sends: contents, in order.
    std::vector<std::vector<size_t>> scans;
    bool barrier = false; // nobody sends before everybody has scanned
    // Of each member, of each channel, of each packet: contents.
    using Packet = std::vector<size_t>;
    std::vector<std::vector<std::vector<Packet>>> sends;
    uint32_t crashes = 0;       // processes that may end at any step, at most
    bool gangd_crashes = false; // gangd is one of them
    bool destinations_crash = true;
    bool leave_early = false; // members leave without waiting for acknowledgements
    int hang_up = -1;         // a member whose connection gangd loses at any step
    Misdeed misdeed = Misdeed::kNothing;
};

class GangCase : public Case {
  public:
    explicit GangCase(const Plan &plan);
    Execution &execution() override { return world_.execution(); }
    void Begin() override;
    void End() override;

  private:
    struct Published {
        uint32_t slot;
        size_t content;
    };
    struct Sent {
        std::vector<Published> published, referenced;
        std::vector<uint32_t> bases;
        size_t literals = 0;
    };
    struct Waiting {
        size_t content;
        Deferred page;
    };
    struct Channel {
        uint32_t member, channel;
        uint32_t next_slot = 0, chunk_end = 0;
        bool finished = false;     // all its pages are sent
        bool failed = false;       // its destination is gone
        bool acknowledged = false; // just now: the return path is at work
        Sent building;
        std::deque<Sent> sent;
        std::deque<Waiting> deferred;
        Waiting again; // the deferred page at hand
    };
    void Scan(Channel *ch);
    void Send(Channel *ch);
    void Flush(Channel *ch);
    void Page(Channel *ch, size_t content, bool may_defer);
    bool Publish(Channel *ch, const Decision &decision, size_t content, uint32_t *slot);
    bool AwaitDecision(Channel *ch);
    void Finish(Channel *ch);
    void Destination(Channel *ch);
    void Acknowledge(Channel *ch, uint32_t packet);
    void CheckStored(uint32_t slot, size_t content);
    void Gangd();
    bool ScansDone();
    bool Known(const Channel &ch);
    bool OwnerLost(const Channel &ch);
    bool Drained(uint32_t member);
    int Unmarked();
    bool DestinationGone(const Channel &ch) {
        return execution().crashed(world_.destination(ch.member));
    }

    Plan plan_;
    World world_;
    Directory &d_;
    std::vector<std::unique_ptr<StallWatch>> stalls_;
    std::vector<std::deque<Channel>> channels_;
    std::vector<bool> scanned_;
    std::vector<bool> left_;
};

} // namespace gang::interleave

#endif
