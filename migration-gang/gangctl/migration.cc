// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A gang's migration from end to end: see migration.h.

#include "migration.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "control.h"
#include "control_message.h"
#include "interrupt.h"
#include "preflight.h"
#include "text.h"
#include "watcher.h"

namespace gangctl {

using gang::Status;
using nlohmann::json;

namespace {

constexpr int kTickMs = 250;
constexpr int kAnnounceMs = 5000;
constexpr int64_t kCancelMs = 30000;
constexpr uint64_t kUnlimited = uint64_t{1} << 40; // bytes a second; QEMU has no word for it

// QEMU's working directory is not ours.
std::string Absolute(const std::string &path) {
    std::error_code error;
    std::string full = std::filesystem::absolute(path, error).string();
    return error ? path : full;
}

json Parameters(const Plan &plan, const VmPlan &vm, bool source) {
    json parameters = {{"multifd-channels", plan.channels},
                       {"multifd-zstd-level", plan.level},
                       {"gang-compression", plan.compression}};
    if (source) {
        parameters["max-bandwidth"] = plan.max_bandwidth ? plan.max_bandwidth : kUnlimited;
        parameters["downtime-limit"] = plan.downtime_limit;
        parameters["gang-policy"] = plan.policy;
        // What is not asked for is not said: an older QEMU does not know it.
        if (vm.priority) {
            parameters["gang-priority"] = vm.priority;
        }
        if (plan.patience) {
            parameters["gang-patience"] = plan.patience;
            parameters["gang-stuck"] = plan.stuck;
        }
    }
    return parameters;
}

void Fail(Vm *vm, const Status &status) {
    vm->outcome = Outcome::kFailed;
    vm->phase = "failed";
    vm->error = status.message();
}

void Prepare(const Plan &plan, Vm *vm) {
    json ignored;
    Status status = vm->source->Execute("migrate-set-parameters",
                                        Parameters(plan, vm->plan, true), &ignored);
    if (status.ok()) {
        status =
            vm->destination->Execute("migrate-set-parameters",
                                     Parameters(plan, vm->plan, false), &ignored);
    }
    if (status.ok()) {
        status = vm->destination->Execute(
            "gang-migrate-incoming",
            {{"uri", vm->plan.listen.empty() ? vm->plan.uri : vm->plan.listen},
             {"gang-id", plan.gang},
             {"gang-socket", Absolute(plan.destination_coordinator)}},
            &ignored);
    }
    if (!status.ok()) {
        Fail(vm, status);
    }
}

// A gang that moves all-or-nothing does not start without one of its VMs.
void StartAllOrNone(const Plan &plan, Vms *vms) {
    auto failed = std::find_if(vms->begin(), vms->end(),
                               [](const auto &vm) { return vm->outcome == Outcome::kFailed; });
    if (plan.policy != "all-or-nothing" || failed == vms->end()) {
        return;
    }
    for (auto &vm : *vms) {
        if (vm->outcome == Outcome::kPending) {
            Fail(vm.get(), {gang::Code::kInvalid, "not started, as " + (*failed)->plan.name +
                                                      " cannot be (all-or-nothing)"});
        }
    }
}

// As QEMU tells it to the coordinator; empty: it has none.
std::string MemberName(Vm *vm) {
    json info;
    std::string name;
    if (vm->source->Execute("query-name", json::object(), &info).ok()) {
        gang::GetString(info, "name", &name);
    }
    name = name.substr(0, gang::kMaxControlName);
    for (char &c : name) {
        if (!gang::ValidName(std::string_view(&c, 1))) {
            c = '_';
        }
    }
    return name;
}

Status Tell(const std::string &socket, const std::string &gang, const gang::GangOrder &order) {
    std::unique_ptr<gang::ControlClient> client;
    Status status = gang::ControlClient::Connect(socket, kAnnounceMs, &client);
    if (status.ok()) {
        status = client->Hello("gangctl", false, kAnnounceMs);
    }
    return status.ok() ? client->SetOrder(gang, order, kAnnounceMs) : status;
}

// Tells the coordinator who is to come, and what holds for all.  Without that the
// gang still moves, unless something was asked for.
Status Announce(const Plan &plan, Vms *vms) {
    gang::GangOrder order{plan.gang_max_bandwidth, plan.bulk_members, plan.turn_limit, {}};
    for (auto &vm : *vms) {
        std::string name = vm->outcome == Outcome::kPending ? MemberName(vm.get()) : "";
        if (!name.empty()) {
            order.expect.push_back(std::move(name));
        }
    }
    return Tell(plan.source_coordinator, plan.gang, order);
}

// The command goes to all before any answer is waited for.
void Start(const Plan &plan, Vms *vms) {
    auto ready = std::count_if(vms->begin(), vms->end(),
                               [](const auto &vm) { return vm->outcome == Outcome::kPending; });
    for (auto &vm : *vms) {
        if (vm->outcome == Outcome::kPending) {
            Status status = vm->source->Send("gang-migrate",
                                             {{"uri", vm->plan.uri},
                                              {"gang-id", plan.gang},
                                              {"gang-socket", Absolute(plan.source_coordinator)},
                                              {"gang-members", ready}});
            vm->outcome = Outcome::kRunning;
            if (!status.ok()) {
                Fail(vm.get(), status);
            }
        }
    }
    int64_t deadline = NowMs() + QmpClient::kTimeoutMs;
    for (auto &vm : *vms) {
        if (vm->outcome == Outcome::kRunning) {
            json ignored;
            bool answered = false;
            auto left = static_cast<int>(std::max<int64_t>(deadline - NowMs(), 0));
            Status status = vm->source->Receive(&ignored, &answered, left);
            // No answer yet is no failure: query-migrate will tell.
            if (!status.ok()) {
                Fail(vm.get(), status);
            }
        }
    }
}

// Until all have ended, or an interruption or the time limit has ended them.
void Watch(Vms *vms, uint64_t timeout_s, Progress *progress) {
    int64_t timeout_at = timeout_s ? NowMs() + static_cast<int64_t>(timeout_s) * 1000 : INT64_MAX;
    int64_t cancelled_ms = 0;
    bool told = false; // who is missing
    while (AnyRunning(*vms)) {
        PollOnce(vms, kTickMs);
        for (const auto &vm : *vms) {
            if (!vm->absent.empty() && !told) {
                told = true;
                progress->Note("the gang has started without " + vm->absent);
            }
        }
        progress->Update(*vms);
        int64_t now = NowMs();
        if (!cancelled_ms && (interrupts || now >= timeout_at)) {
            bool limit = !interrupts;
            progress->Note(limit ? "time is up: cancelling" : "interrupted: cancelling");
            CancelRunning(vms, limit ? fmt::format("cancelled: not done in {} s", timeout_s)
                                     : "cancelled by interruption");
            cancelled_ms = now;
        } else if (cancelled_ms && (now - cancelled_ms > kCancelMs || interrupts > 1)) {
            for (auto &vm : *vms) {
                if (vm->outcome == Outcome::kRunning) {
                    Fail(vm.get(), {gang::Code::kUnavailable,
                                    "its cancellation has not ended: look with query-migrate; where "
                                    "the link is lost, QMP's yank ends it"});
                }
            }
        }
    }
    progress->Update(*vms);
}

// `wanted`: the outcome every VM has to have for success.
int Finish(Vms *vms, Outcome wanted, Progress *progress) {
    bool failed = false, cancelled = false, good = true;
    Locate(vms);
    for (const auto &vm : *vms) {
        failed |= vm->outcome == Outcome::kFailed;
        cancelled |= vm->outcome == Outcome::kCancelled;
        good &= vm->outcome == wanted;
    }
    progress->Finish(*vms, failed ? "failed" : cancelled ? "cancelled" : "completed");
    return interrupts ? kExitInterrupted : good ? 0 : kExitFailed;
}

Vms MakeVms(const Plan &plan) {
    Vms vms;
    for (const VmPlan &vm : plan.vms) {
        vms.push_back(std::make_unique<Vm>(vm));
    }
    return vms;
}

// What was not started when the interruption came.
void CancelPending(Vms *vms) {
    for (auto &vm : *vms) {
        if (vm->outcome == Outcome::kPending) {
            vm->outcome = Outcome::kCancelled;
            vm->phase = "cancelled";
            vm->error = "interrupted before its start";
        }
    }
}

// Says what it finds.  False: the gang was refused.
bool Check(const Plan &plan, Vms *vms, Progress *progress) {
    Findings findings = Preflight(plan, vms);
    for (const std::string &note : findings.notes) {
        progress->Note(note);
    }
    if (findings.problems.empty() || interrupts) {
        return true;
    }
    for (const std::string &problem : findings.problems) {
        progress->Problem(problem);
    }
    for (auto &vm : *vms) {
        Fail(vm.get(), {gang::Code::kInvalid, "not started"});
        for (const std::string &problem : findings.problems) {
            if (problem.rfind(vm->plan.name + " (", 0) == 0) {
                vm->error = problem;
            }
        }
    }
    progress->Problem("nothing was started");
    Locate(vms);
    progress->Refuse(*vms);
    return false;
}

} // namespace

int CheckOnly(const Plan &plan, Progress *progress) {
    Vms vms = MakeVms(plan);
    if (!Check(plan, &vms, progress)) {
        return kExitFailed;
    }
    if (interrupts) {
        return kExitInterrupted;
    }
    progress->Ready(vms);
    return 0;
}

int Migrate(const Plan &plan, uint64_t timeout_s, Progress *progress) {
    Vms vms = MakeVms(plan);
    if (!Check(plan, &vms, progress)) {
        return kExitFailed;
    }
    for (auto &vm : vms) {
        if (!interrupts) {
            Prepare(plan, vm.get());
        }
    }
    StartAllOrNone(plan, &vms);
    if (!interrupts) {
        if (Status status = Announce(plan, &vms); !status.ok()) {
            const bool asked = plan.gang_max_bandwidth || plan.bulk_members || plan.turn_limit;
            // One of another host cannot be reached from here.
            if (asked || status.code() != gang::Code::kUnavailable) {
                progress->Note("the coordinator was not told of the gang: " + status.message());
            }
            if (asked) {
                for (auto &vm : vms) {
                    Fail(vm.get(), status);
                }
            }
        }
        Start(plan, &vms);
        Watch(&vms, timeout_s, progress);
    }
    CancelPending(&vms);
    return Finish(&vms, Outcome::kCompleted, progress);
}

int SetOrder(const std::string &socket, const std::string &gang, const gang::GangOrder &order) {
    Status status = Tell(socket, gang, order);
    if (!status.ok()) {
        fmt::print(stderr, "gangctl: {}\n", Plain(status.message()));
    }
    return status.ok() ? 0 : kExitFailed;
}

int Cancel(const Plan &plan, Progress *progress) {
    Vms vms = MakeVms(plan);
    for (auto &vm : vms) {
        Status status = QmpClient::Connect(vm->plan.source, 5000, &vm->source);
        json info;
        std::string state = "none";
        if (status.ok()) {
            status = vm->source->Execute("query-migrate", {}, &info);
        }
        gang::GetString(info, "status", &state);
        if (status.ok() && AtRest(state)) {
            status = {gang::Code::kInvalid,
                      "no migration is under way (query-migrate says " + state + ")"};
        }
        vm->outcome = Outcome::kRunning;
        if (!status.ok()) {
            Fail(vm.get(), status);
        }
    }
    CancelRunning(&vms, "cancelled by gangctl cancel");
    Watch(&vms, kCancelMs / 1000, progress);
    return Finish(&vms, Outcome::kCancelled, progress);
}

} // namespace gangctl
