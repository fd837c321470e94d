// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What to migrate where: a plan, from a JSON file or from arguments.

#ifndef GANGCTL_PLAN_H
#define GANGCTL_PLAN_H

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "status.h"

namespace gangctl {

struct VmPlan {
    std::string name;        // as gangctl shows it; 1 to 64 of A-Z a-z 0-9 . _ : -
    std::string source;      // QMP socket
    std::string destination; // QMP socket
    std::string uri;         // where the source connects to
    std::string listen;      // where the destination listens; empty: at `uri`
    uint64_t priority = 0;   // in the bulk phase; the higher, the earlier
};

struct Plan {
    std::string gang;
    std::string source_coordinator; // path on the source host
    std::string destination_coordinator;
    std::string compression = "zstd";
    std::string policy = "independent"; // of the switchover, as QEMU's gang-policy
    uint64_t level = 1;
    uint64_t channels = 2;
    uint64_t max_bandwidth = 0;    // bytes a second of one VM; 0: no limit
    uint64_t downtime_limit = 300; // ms
    // Of the whole gang; none: as gangd is configured.
    std::optional<uint64_t> gang_max_bandwidth; // bytes a second; 0: no limit
    std::optional<uint64_t> bulk_members;       // in their first round at a time; 0: all
    std::optional<uint64_t> turn_limit;         // ms
    uint64_t patience = 0;            // rounds until a VM's CPUs are throttled; 0: never
    std::string stuck = "throttle";   // what becomes of it then: throttle, last, fail
    bool overcommit = false;       // start though the destination seems short of memory
    std::vector<VmPlan> vms;

    Plan();
};

// Reads `path` ("-": standard input).  Every key has to be known and of its type.
gang::Status ReadPlan(const std::string &path, Plan *plan);
gang::Status ParsePlan(const std::string &text, Plan *plan);
// "name=vm1,source=PATH,destination=PATH,uri=URI[,listen=URI]"
gang::Status ParseVm(const std::string &text, VmPlan *vm);

// What can be said without asking anybody.  A cancellation and an estimate need
// names and sources only.
enum class Need {
    kMigration,
    kSources
};
gang::Status CheckPlan(const Plan &plan, Need need);

} // namespace gangctl

#endif
