// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Drives a gang's migration over QMP from the first check to the last report.
//
//   Preflight   both monitors of each VM, both coordinators; nothing changed yet
//   Prepare     parameters at both ends, destinations listen
//   Announce    the gang's members and limits, to the source's coordinator
//   Start       gang-migrate to all sources at once
//   Watch       query-migrate and query-gang, 4 times a second
//   Locate      where every VM is now
//
// A VM that fails does not stop the others.  An interruption or the time limit
// cancels those that have not completed: they go on at the source.

#ifndef GANGCTL_MIGRATION_H
#define GANGCTL_MIGRATION_H

#include "control.h"
#include "plan.h"
#include "progress.h"
#include "vm.h"

namespace gangctl {

// All return the exit code.  timeout_s 0: no limit.
int Migrate(const Plan &plan, uint64_t timeout_s, Progress *progress);
// The first check alone: 0 if the gang could start.
int CheckOnly(const Plan &plan, Progress *progress);
// Cancels the migrations of the plan's sources, whoever started them.
int Cancel(const Plan &plan, Progress *progress);
// What holds for a gang from now on, at the coordinator of its source host.
int SetOrder(const std::string &socket, const std::string &gang, const gang::GangOrder &order);

} // namespace gangctl

#endif
