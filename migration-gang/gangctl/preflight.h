// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Everything that can be found wrong before anything is started.

#ifndef GANGCTL_PREFLIGHT_H
#define GANGCTL_PREFLIGHT_H

#include <string>
#include <vector>

#include "plan.h"
#include "vm.h"

namespace gangctl {

struct Findings {
    std::vector<std::string> problems; // each names the VM and says what to do
    std::vector<std::string> notes;    // what could not be looked at from here
};

// Connects both monitors of every VM, which stay open.  Changes nothing.
Findings Preflight(const Plan &plan, Vms *vms);

} // namespace gangctl

#endif
