// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Asks many sources for their migrations' state without waiting for any one.

#ifndef GANGCTL_WATCHER_H
#define GANGCTL_WATCHER_H

#include "vm.h"

namespace gangctl {

// Asks every running VM that owes no answer, and takes what answers come within
// `ms`.  A source that is gone, or silent for a minute, has failed.
void PollOnce(Vms *vms, int ms);
// Asks for the cancellation of every running VM; the end shows in PollOnce().
// `why` becomes the error of those it ends.
void CancelRunning(Vms *vms, const std::string &why);
bool AnyRunning(const Vms &vms);
// Fills `at` and `run_state`; waits, within bounds, for destinations that still
// load.  A VM that completed but whose destination is gone has failed.
void Locate(Vms *vms);

} // namespace gangctl

#endif
