// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The situations that are explored, for the code as it is and for its mutants.

#ifndef GANG_INTERLEAVE_CASES_H
#define GANG_INTERLEAVE_CASES_H

#include <ostream>

#include "actors.h"

namespace gang::interleave {

// Contents whose hashes begin in the same bucket; 0 and 1, and 2 and 3, have the
// low half in common.  All have a feature in common.
inline std::vector<Content> Contents(size_t count, uint32_t seen) {
    std::vector<Content> contents;
    for (uint64_t i = 0; i < count; i++) {
        contents.push_back({{1 + i / 2, 1 + i % 2}, {uint64_t{7} << 40, (8 + i) << 40}, seen});
    }
    return contents;
}

// Two members meet equal and colliding hashes for the first time.
inline Plan FirstMeeting() {
    Plan plan;
    plan.world.contents = Contents(2, 0);
    plan.scans = {{0, 1}, {1}};
    plan.crashes = 1;
    plan.destinations_crash = false;
    return plan;
}

// Two members have one page; either, or a destination, ends anywhere.
inline Plan OnePage() {
    Plan plan;
    plan.world.contents = Contents(1, 2);
    plan.sends = {{{{0}}}, {{{0}}}};
    plan.crashes = 1;
    return plan;
}

// The same, with the store's own accesses as steps, and nobody ends.
inline Plan OnePageAndTheStore() {
    Plan plan = OnePage();
    plan.world.store_steps = true;
    return plan;
}

// Counters too.
inline Plan OnePageAndCounters() {
    Plan plan = OnePage();
    plan.world.stat_steps = true;
    plan.destinations_crash = false;
    return plan;
}

// Two members send two pages, each the other's first one last.
inline Plan Crossed() {
    Plan plan = OnePage();
    plan.world.contents = Contents(2, 2);
    plan.sends = {{{{0}, {1}}}, {{{1}, {0}}}};
    return plan;
}

// Three members have one page, and two processes end: gangd, too.
inline Plan TakeOver() {
    Plan plan = OnePage();
    plan.world.members = 3;
    plan.sends = {{{{0}}}, {{{0}}}, {{{0}}}};
    plan.crashes = 2;
    plan.gangd_crashes = true;
    return plan;
}

// gangd loses the connection of a member that goes on.
inline Plan HangUp() {
    Plan plan = OnePage();
    plan.world.members = 3;
    plan.sends = {{{{0}}}, {{{0}}}, {{{0}}}};
    plan.crashes = 0;
    plan.hang_up = 0;
    plan.world.late_acks = true;
    return plan;
}

// Members that leave while they are still being acknowledged.
inline Plan LeaveEarly() {
    Plan plan = Crossed();
    plan.leave_early = true;
    plan.world.late_acks = true;
    return plan;
}

// No scan has seen the content: the second literal is published.
inline Plan NotScanned() {
    Plan plan = OnePage();
    plan.world.members = 3;
    plan.world.contents = Contents(1, 0);
    plan.sends = {{{{0}}}, {{{0}}}, {{{0}}}};
    return plan;
}

// Pages that are alike, counted by the members themselves, and sent without a barrier.
inline Plan Alike() {
    Plan plan;
    plan.world.mirror_pages = 64;
    plan.world.contents = Contents(2, 0);
    plan.scans = {{0, 1}, {1}};
    plan.sends = {{{{0}}}, {{{1}}}};
    plan.crashes = 1;
    return plan;
}

// Four channels of two members, and a store for two of them.
inline Plan FullStore() {
    Plan plan;
    plan.world.channels = 2;
    plan.world.slots = 2 * kChunkSlots;
    plan.world.contents = Contents(3, 2);
    plan.sends = {{{{0}}, {{1}}}, {{{1}}, {{2, 0}}}};
    plan.crashes = 1;
    return plan;
}

// Everything at once, for random schedules.
inline Plan Everything() {
    Plan plan;
    plan.world.members = 3;
    plan.world.channels = 2;
    plan.world.mirror_pages = 2;
    plan.world.store_steps = plan.world.stat_steps = true;
    plan.world.contents = Contents(5, 0);
    plan.scans = {{0, 1, 2}, {2, 1, 3}, {4, 3, 0}};
    plan.sends = {{{{0, 1}, {2}}, {{4}}}, {{{2, 1}}, {{3}, {0, 4}}}, {{{4, 3}}, {{0}, {1, 2}}}};
    plan.crashes = 3;
    plan.gangd_crashes = true;
    return plan;
}

// Three members, with three hashes.
inline Plan FirstMeetingOfThree() {
    Plan plan = FirstMeeting();
    plan.world.members = 3;
    plan.world.contents = Contents(3, 0);
    plan.scans = {{0, 1}, {1, 2}, {2, 0}};
    plan.crashes = 2;
    return plan;
}

struct Named {
    const char *name;
    Plan (*plan)();
    uint32_t preemptions; // kUnbounded: every interleaving
};
inline void PrintTo(const Named &named, std::ostream *out) {
    *out << named.name;
}
inline constexpr Named kCases[] = {
    {"FirstMeeting", FirstMeeting, kUnbounded},
    {"FirstMeetingOfThree", FirstMeetingOfThree, 2},
    {"OnePage", OnePage, kUnbounded},
    {"OnePageAndTheStore", OnePageAndTheStore, 3},
    {"OnePageAndCounters", OnePageAndCounters, kUnbounded},
    {"Crossed", Crossed, 2},
    {"TakeOver", TakeOver, 2},
    {"HangUp", HangUp, 2},
    {"LeaveEarly", LeaveEarly, 2},
    {"NotScanned", NotScanned, 2},
    {"Alike", Alike, 2},
    {"FullStore", FullStore, 2},
    {"Everything", Everything, 1},
};

} // namespace gang::interleave

#endif
