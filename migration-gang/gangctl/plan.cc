// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Plans: parsing, and checks that need nobody's answer.

#include "plan.h"

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>

#include <fmt/format.h>

#include "control_message.h"
#include "pacer.h"
#include "switchover.h"

namespace gangctl {

using gang::Code;
using gang::Status;
using nlohmann::json;

namespace {

constexpr size_t kMaxPlan = 1 << 20;

struct TextKey {
    const char *key;
    std::string *value;
};
struct NumberKey {
    const char *key;
    uint64_t *value;
};
// Of keys that may be absent.
void Take(const json &object, const char *key, std::optional<uint64_t> *value) {
    uint64_t number = 0;
    if (gang::GetUint(object, key, INT64_MAX, &number)) {
        *value = number;
    }
}

Status Invalid(const std::string &text) {
    return {Code::kInvalid, text};
}

// Fills what `object` has; `other` names keys that are read elsewhere.
Status ReadKeys(const json &object, const std::string &where, std::vector<TextKey> texts,
                std::vector<NumberKey> numbers, const std::set<std::string> &other) {
    if (!object.is_object()) {
        return Invalid(where + " has to be a JSON object");
    }
    for (const auto &[key, value] : object.items()) {
        bool known = other.count(key) > 0;
        for (const TextKey &text : texts) {
            if (key == text.key) {
                known = true;
                if (!gang::GetString(object, text.key, text.value)) {
                    return Invalid(fmt::format("{}: '{}' has to be a string", where, key));
                }
            }
        }
        for (const NumberKey &number : numbers) {
            if (key == number.key) {
                known = true;
                if (!gang::GetUint(object, number.key, INT64_MAX, number.value)) {
                    return Invalid(
                        fmt::format("{}: '{}' has to be an integer, 0 or more", where, key));
                }
            }
        }
        if (!known) {
            return Invalid(fmt::format("{}: unknown key '{}'", where, key));
        }
    }
    return Status::Ok();
}

std::vector<TextKey> VmKeys(VmPlan *vm) {
    return {{"name", &vm->name},
            {"source", &vm->source},
            {"destination", &vm->destination},
            {"uri", &vm->uri},
            {"listen", &vm->listen}};
}

} // namespace

Plan::Plan()
    : source_coordinator(gang::kDefaultControlSocket),
      destination_coordinator(gang::kDefaultControlSocket) {}

Status ParsePlan(const std::string &text, Plan *plan) {
    json root = json::parse(text, nullptr, false);
    if (root.is_discarded()) {
        return Invalid("the plan is not JSON");
    }
    uint64_t checked = 0; // read below, where there is a difference between 0 and nothing
    Status status = ReadKeys(root, "plan",
                             {{"gang", &plan->gang},
                              {"source_coordinator", &plan->source_coordinator},
                              {"destination_coordinator", &plan->destination_coordinator},
                              {"compression", &plan->compression},
                              {"policy", &plan->policy},
                              {"stuck", &plan->stuck}},
                             {{"level", &plan->level},
                              {"channels", &plan->channels},
                              {"max_bandwidth", &plan->max_bandwidth},
                              {"downtime_limit", &plan->downtime_limit},
                              {"gang_max_bandwidth", &checked},
                              {"bulk_members", &checked},
                              {"turn_limit", &checked},
                              {"patience", &plan->patience}},
                             {"vms"});
    if (!status.ok()) {
        return status;
    }
    Take(root, "gang_max_bandwidth", &plan->gang_max_bandwidth);
    Take(root, "bulk_members", &plan->bulk_members);
    Take(root, "turn_limit", &plan->turn_limit);
    auto vms = root.find("vms");
    if (vms == root.end() || !vms->is_array()) {
        return Invalid("plan: 'vms' has to be a list of VMs");
    }
    for (size_t i = 0; i < vms->size(); i++) {
        VmPlan vm;
        status = ReadKeys((*vms)[i], fmt::format("plan: vms[{}]", i), VmKeys(&vm),
                          {{"priority", &vm.priority}}, {});
        if (!status.ok()) {
            return status;
        }
        plan->vms.push_back(std::move(vm));
    }
    return Status::Ok();
}

Status ReadPlan(const std::string &path, Plan *plan) {
    std::ifstream file;
    if (path != "-") {
        file.open(path, std::ios::binary);
        if (!file || std::filesystem::is_directory(path)) {
            return Invalid("cannot read the plan " + path);
        }
    }
    std::istream &in = path == "-" ? std::cin : file;
    std::string text(kMaxPlan + 1, '\0');
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(in.gcount()));
    if (text.size() > kMaxPlan) {
        return Invalid("the plan " + path + " is longer than 1 MiB");
    }
    return ParsePlan(text, plan);
}

Status ParseVm(const std::string &text, VmPlan *vm) {
    std::vector<TextKey> keys = VmKeys(vm);
    size_t at = 0;
    while (at <= text.size()) {
        size_t comma = std::min(text.find(',', at), text.size());
        std::string part = text.substr(at, comma - at);
        at = comma + 1;
        size_t equals = part.find('=');
        bool known = false;
        if (part.compare(0, equals, "priority") == 0 && equals != std::string::npos) {
            const char *end = part.data() + part.size();
            auto read = std::from_chars(part.data() + equals + 1, end, vm->priority);
            known = read.ec == std::errc() && read.ptr == end;
        }
        for (const TextKey &key : keys) {
            if (equals != std::string::npos && part.compare(0, equals, key.key) == 0) {
                *key.value = part.substr(equals + 1);
                known = true;
            }
        }
        if (!known) {
            return Invalid(fmt::format("--vm: '{}' is none of name=, source=, destination=, uri=, "
                                       "listen=, priority=NUMBER",
                                       part));
        }
    }
    return Status::Ok();
}

Status CheckPlan(const Plan &plan, Need need) {
    bool migration = need == Need::kMigration;
    if (plan.vms.empty()) {
        return Invalid("there is no VM: name at least one (--vm, or \"vms\" in the plan)");
    }
    if (plan.vms.size() > gang::kMaxMembers) {
        return Invalid(
            fmt::format("a gang has at most {} VMs, not {}", gang::kMaxMembers, plan.vms.size()));
    }
    if (plan.compression != "zstd" && plan.compression != "none") {
        return Invalid("compression is 'zstd' or 'none', not '" + plan.compression + "'");
    }
    if (gang::SwitchoverPolicy policy; !gang::SwitchoverPolicyFromName(plan.policy, &policy)) {
        return Invalid("policy is 'independent', 'together' or 'all-or-nothing', not '" +
                       plan.policy + "'");
    }
    if (plan.level < 1 || plan.level > 20) {
        return Invalid("level is 1 to 20");
    }
    if (plan.channels < 1 || plan.channels > gang::kMaxChannels) {
        return Invalid(fmt::format("channels is 1 to {}", gang::kMaxChannels));
    }
    if (migration) {
        if (!gang::ValidName(plan.gang)) {
            return Invalid(
                fmt::format("gang id '{}': use 1 to 64 of A-Z a-z 0-9 . _ : -", plan.gang));
        }
        if (plan.stuck != "throttle" && plan.stuck != "last" && plan.stuck != "fail") {
            return Invalid("stuck is 'throttle', 'last' or 'fail', not '" + plan.stuck + "'");
        }
        if (plan.patience > UINT32_MAX) {
            return Invalid("patience is at most 4294967295 rounds");
        }
        if (plan.bulk_members.value_or(0) > gang::kMaxMembers) {
            return Invalid(fmt::format("bulk_members is at most {}", gang::kMaxMembers));
        }
        if (plan.turn_limit.value_or(0) > gang::Turns::kMaxTurnMs) {
            return Invalid(fmt::format("turn_limit is at most {} ms", gang::Turns::kMaxTurnMs));
        }
        if (plan.downtime_limit > 2000 * 1000) {
            return Invalid("downtime_limit is at most 2000000 ms");
        }
        for (const std::string *path : {&plan.source_coordinator, &plan.destination_coordinator}) {
            if (path->empty() || path->size() > 107) {
                return Invalid("a coordinator's socket path has 1 to 107 bytes");
            }
        }
    }
    std::set<std::string> names, monitors, uris;
    for (const VmPlan &vm : plan.vms) {
        if (!gang::ValidName(vm.name)) {
            return Invalid(
                fmt::format("VM name '{}': use 1 to 64 of A-Z a-z 0-9 . _ : -", vm.name));
        }
        if (!names.insert(vm.name).second) {
            return Invalid("two VMs are named " + vm.name);
        }
        if (vm.source.empty()) {
            return Invalid(vm.name + ": no source (its QMP socket at the source)");
        }
        if (!monitors.insert(vm.source).second) {
            return Invalid(vm.name + ": the QMP socket " + vm.source + " is used twice");
        }
        if (vm.priority > UINT16_MAX) {
            return Invalid(vm.name + ": priority is at most 65535");
        }
        if (!migration) {
            continue;
        }
        if (vm.destination.empty()) {
            return Invalid(vm.name + ": no destination (its QMP socket at the destination)");
        }
        if (!monitors.insert(vm.destination).second) {
            return Invalid(vm.name + ": the QMP socket " + vm.destination + " is used twice");
        }
        if (vm.uri.empty()) {
            return Invalid(vm.name + ": no uri (where to migrate to, as tcp:HOST:PORT)");
        }
        if (!uris.insert(vm.uri).second) {
            return Invalid(vm.name + ": the uri " + vm.uri +
                           " is used twice: each VM needs a "
                           "port of its own");
        }
    }
    return Status::Ok();
}

} // namespace gangctl
