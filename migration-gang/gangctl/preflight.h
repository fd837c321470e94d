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
//
//   monitors      both ends answer, of a QEMU that has gang migration
//   state         sources run and do not migrate, destinations wait
//   machine       what both ends say of RAM, machine type, CPUs and TLS agrees
//   migration     nothing in a source's settings or devices forbids it
//   coordinators  answer, of our release, and know no such gang (this host's)
//   memory        guests and store fit at the destination (if it is this host's
//                 coordinator that says what is free there)
Findings Preflight(const Plan &plan, Vms *vms);

} // namespace gangctl

#endif
