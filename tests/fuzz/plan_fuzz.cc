// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Plans from a file or from arguments: read or refused with a reason, and what
// passes the check is what gangctl may act on.
//
// First byte, bit 0: the rest is a --vm argument, not a plan.

#include <string>

#include "control_message.h"
#include "fuzz_store.h"
#include "plan.h"

using namespace gang;
using namespace gang::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const bool argument = input.Number(1) & 1;
    const size_t left = input.left();
    const std::string text(reinterpret_cast<const char *>(input.Take(left)), left);

    gangctl::Plan plan;
    Status status;
    if (argument) {
        plan.gang = "gang";
        plan.vms.emplace_back();
        status = gangctl::ParseVm(text, &plan.vms.back());
    } else {
        status = gangctl::ParsePlan(text, &plan);
    }
    Check(status.ok() == status.message().empty(), "a refusal has a reason");
    if (!status.ok()) {
        return 0;
    }
    status = gangctl::CheckPlan(plan, gangctl::Need::kMigration);
    Check(status.ok() == status.message().empty(), "a refusal has a reason");
    if (status.ok()) {
        Check(gangctl::CheckPlan(plan, gangctl::Need::kSources).ok(),
              "who can migrate can cancel");
        Check(!plan.vms.empty() && plan.vms.size() <= kMaxMembers && ValidName(plan.gang) &&
                  plan.channels >= 1 && plan.channels <= kMaxChannels,
              "a plan that passes is within bounds");
        for (const gangctl::VmPlan &vm : plan.vms) {
            Check(ValidName(vm.name) && !vm.source.empty() && !vm.destination.empty() &&
                      !vm.uri.empty(),
                  "every VM has a name, both ends and a way");
        }
    }
    return 0;
}
