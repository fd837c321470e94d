// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One VM of a gang on its way, as gangctl sees it.

#ifndef GANGCTL_VM_H
#define GANGCTL_VM_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "plan.h"
#include "qmp_client.h"

namespace gangctl {

enum class Outcome {
    kPending,
    kRunning,
    kCompleted,
    kFailed,
    kCancelled
};

struct Vm {
    explicit Vm(const VmPlan &p) : plan(p) {}

    VmPlan plan;
    std::unique_ptr<QmpClient> source, destination;

    Outcome outcome = Outcome::kPending;
    std::string error;           // why it failed or was cancelled
    std::string phase = "ready"; // of query-gang where it says more than query-migrate
    std::string at = "unknown";  // "source", "destination": where the VM is, in the end
    std::string run_state;       // of query-status there
    std::string absent;          // members of its gang that had not come at the start

    // Last known figures of query-migrate and query-gang.
    uint64_t ram_bytes = 0, remaining_bytes = 0, wire_bytes = 0;
    uint64_t total_ms = 0, downtime_ms = 0;
    uint64_t zero_pages = 0, literal_pages = 0, published_pages = 0, referenced_pages = 0;
    uint64_t patched_pages = 0, delta_pages = 0;
    uint64_t stopped_us = 0;  // when, by the source host's monotonic clock; 0: not told
    bool late = false;        // the others of a gang that stops together did not wait
    uint64_t saved_bytes = 0; // size of the pages sent less what they took on the wire
    uint64_t done_bytes = 0;  // memory sent in whatever form, zero and again too
    uint64_t round = 0;       // of precopy
    double rate = 0;          // bytes a second on the wire, smoothed
    double memory_rate = 0;   // of done_bytes, smoothed
    double dirty_rate = 0;    // bytes a second that the guest writes
    double reached = 0;       // highest percentage so far
    int64_t left_ms = -1;     // until the end at these rates; -1: they do not tell

    // What the source has been asked and not answered yet.
    enum class Asked {
        kNothing,
        kMigrate,
        kGang,
        kCancel
    };
    Asked asked = Asked::kNothing;
    int64_t asked_ms = 0;
    Outcome ends = Outcome::kRunning; // outcome to come after the last query-gang
    int64_t rate_ms = 0;              // when the rates were taken
    uint64_t rate_bytes = 0, rate_done = 0;

    bool over() const { return outcome > Outcome::kRunning; }
    double percent() const { return outcome == Outcome::kCompleted ? 100 : reached; }
    // "waiting", "active", "completed", "failed", "cancelled"
    const char *status() const {
        switch (outcome) {
        case Outcome::kPending:
            return "waiting";
        case Outcome::kRunning:
            return "active";
        case Outcome::kCompleted:
            return "completed";
        case Outcome::kCancelled:
            return "cancelled";
        case Outcome::kFailed:
            break;
        }
        return "failed";
    }
};

// States of query-migrate in which nothing is under way.
inline bool AtRest(const std::string &migration) {
    return migration == "none" || migration == "completed" || migration == "failed" ||
           migration == "cancelled";
}

using Vms = std::vector<std::unique_ptr<Vm>>;

} // namespace gangctl

#endif
