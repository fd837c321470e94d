// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What a gang's migration would cost, from its live VMs, without migrating.
//
//   Directory   one is made here, as gangd would make it
//   Scan        every VM's QEMU hashes its pages into it, all at once
//   Code        every VM makes the packets of its first round, and forgets them
//   Report      from what the VMs and the directory say
//
// The VMs run on.  Whatever happens, their QEMUs are told to stop; one that is
// not, because gangctl was killed, stops by itself after 30 seconds.

#ifndef GANGCTL_ESTIMATE_H
#define GANGCTL_ESTIMATE_H

#include <cstdint>

#include "plan.h"

namespace gangctl {

struct EstimateOptions {
    uint64_t bandwidth = 0;    // bytes a second; 0: no time is told
    uint64_t sample_pages = 0; // of each VM, to make packets of; 0: QEMU's own default
    uint64_t timeout_s = 600;
    bool json = false;
};

// Returns the exit code.  Needs the plan's sources only.
int Estimate(const Plan &plan, const EstimateOptions &options);

} // namespace gangctl

#endif
