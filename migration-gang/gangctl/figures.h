// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// How far a VM and its gang are, from what query-migrate and query-gang say.

#ifndef GANGCTL_FIGURES_H
#define GANGCTL_FIGURES_H

#include <nlohmann/json.hpp>

#include "vm.h"

namespace gangctl {

// query-migrate's answer, and query-gang's.  A VM's percentage never goes back:
// it is what has been sent, of that and what is still to be sent.  What
// a guest writes makes the latter grow; then it stands still.
void TakeFigures(const nlohmann::json &migration, Vm *vm);
void TakeGangFigures(const nlohmann::json &gang, Vm *vm);

// The VMs together.  Those that failed or were cancelled count with what
// they had sent, but nothing is left of them.
struct GangFigures {
    std::string phase; // the least advanced of those under way, or "ended"
    double percent = 0;
    uint64_t wire_bytes = 0, saved_bytes = 0, remaining_bytes = 0;
    double rate = 0, dirty_rate = 0; // bytes a second
    uint64_t round = 0;              // of the least advanced
    uint64_t zero_pages = 0, literal_pages = 0, published_pages = 0, referenced_pages = 0;
    uint64_t patched_pages = 0, delta_pages = 0;
    int64_t left_ms = -1;            // until the last one is through; -1: cannot be told
    size_t completed = 0, failed = 0;
};

// Keeps what must not go back from one look to the next.
class GangMeter {
  public:
    GangFigures Look(const Vms &vms);

  private:
    double percent_ = 0;
};

// When VMs of a gang that does not move independently were stopped.
struct Skew {
    size_t stopped = 0; // together
    size_t late = 0;    // by themselves, when the others had not waited for them
    double ms = 0;      // between the first that stopped together and the last
};
Skew SkewOf(const Vms &vms);

// The same as JSON: members of an event.
nlohmann::json FiguresJson(const Vm &vm);
nlohmann::json FiguresJson(const GangFigures &gang);

} // namespace gangctl

#endif
