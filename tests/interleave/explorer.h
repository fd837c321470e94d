// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Goes through the executions of one case: all of them, those with few
// pre-emptions, or random ones.

#ifndef GANG_EXPLORER_H
#define GANG_EXPLORER_H

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "execution.h"

namespace gang::interleave {

// One situation: what exists, who acts, and what must hold at the end.
class Case {
  public:
    virtual ~Case() = default;
    virtual Execution &execution() = 0;
    // Brings everything back to the start and adds the actors.
    virtual void Begin() = 0;
    // After all have ended.
    virtual void End() = 0;
};

struct Figures {
    uint64_t executions = 0; // begun
    uint64_t ends = 0;       // that went on to their end: the others joined one seen before
    uint64_t crashes = 0;    // different points (states) at which a process ended
    uint64_t states = 0;     // different states in which somebody chose
    bool complete = false;   // nothing was left out
    double seconds = 0;
    // What went wrong, with the schedule and each of its steps; empty: nothing.
    std::string failure;
};
std::ostream &operator<<(std::ostream &out, const Figures &figures);

constexpr uint32_t kUnbounded = UINT32_MAX;
// Depth first.  A state that was met before is not gone into again.  A
// pre-emption takes the turn from an actor that could have gone on; a crash is none.
Figures Explore(Case *c, uint32_t preemptions, uint64_t most_executions);
// Each schedule with its own rate of pre-emption and of crashes.
Figures Wander(Case *c, uint64_t seed, uint64_t executions);
// One schedule, each step of it as text in Figures::failure.
Figures Replay(Case *c, const std::vector<Choice> &schedule);

} // namespace gang::interleave

#endif
