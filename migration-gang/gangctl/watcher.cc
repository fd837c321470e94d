// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The state of running migrations: see watcher.h.

#include "watcher.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "control_message.h"
#include "figures.h"
#include "interrupt.h"

namespace gangctl {

using gang::GetString;
using gang::Status;
using nlohmann::json;

namespace {

constexpr int64_t kSilentMs = 60000;
constexpr int kLocateMs = 5000;
constexpr int64_t kLoadMs = 30000; // a source may be done before its destination runs
constexpr int kLoadPollMs = 50;

void Fail(Vm *vm, const std::string &why) {
    vm->outcome = Outcome::kFailed;
    vm->phase = "failed";
    vm->error = why;
}

// No more answers will come; an end that was seen before stands.
void Gone(Vm *vm, const std::string &why) {
    if (vm->ends > Outcome::kRunning) {
        vm->outcome = vm->ends;
    } else {
        Fail(vm, why);
    }
}

void Ask(Vm *vm, Vm::Asked what, const char *command) {
    vm->asked = what;
    vm->asked_ms = NowMs();
    if (Status status = vm->source->Send(command); !status.ok()) {
        Gone(vm, status.message());
    }
}

void TakeMigration(Vm *vm, const json &info) {
    std::string status = "none", why;
    GetString(info, "status", &status);
    TakeFigures(info, vm);
    vm->phase = status == "device" ? "switchover" : status;
    if (status == "completed") {
        vm->ends = Outcome::kCompleted;
        vm->error.clear();
    } else if (status == "cancelled") {
        vm->ends = Outcome::kCancelled;
        if (vm->error.empty()) {
            vm->error = "cancelled from elsewhere";
        }
    } else if (status == "failed" || status == "none") {
        vm->ends = Outcome::kFailed;
        vm->error = status == "failed" ? "its migration failed"
                                       : "its migration was not started: see its QEMU's log";
        if (GetString(info, "error-desc", &why)) {
            vm->error = why;
        }
    }
    Ask(vm, Vm::Asked::kGang, "query-gang");
}

void TakeGang(Vm *vm, const json &info) {
    std::string role, phase;
    if (GetString(info, "role", &role) && role == "source") {
        // The gang's phases say more than "active"; an ended one is of the last time.
        static const std::set<std::string> kUnderWay = {"greeting", "joining",   "scanning",
                                                        "barrier",  "migrating", "switchover"};
        if (GetString(info, "phase", &phase) && vm->ends == Outcome::kRunning &&
            (vm->phase == "active" || vm->phase == "setup") && kUnderWay.count(phase)) {
            vm->phase = phase;
        }
        GetString(info, "absent", &vm->absent);
        TakeGangFigures(info, vm);
    }
    vm->outcome = vm->ends;
}

void TakeAnswer(Vm *vm) {
    json answer;
    bool ready = false;
    Status status = vm->source->Receive(&answer, &ready, 0);
    Vm::Asked asked = vm->asked;
    // That there is nothing to cancel any more shows in query-migrate.
    if (status.code() == gang::Code::kUnavailable ||
        (!status.ok() && asked != Vm::Asked::kCancel)) {
        Gone(vm, status.message());
        return;
    }
    if (!ready) {
        return;
    }
    vm->asked = Vm::Asked::kNothing;
    if (asked == Vm::Asked::kMigrate) {
        TakeMigration(vm, answer);
    } else if (asked == Vm::Asked::kGang) {
        TakeGang(vm, answer);
    }
}

} // namespace

bool AnyRunning(const Vms &vms) {
    return std::any_of(vms.begin(), vms.end(),
                       [](const auto &vm) { return vm->outcome == Outcome::kRunning; });
}

void PollOnce(Vms *vms, int ms) {
    int64_t end = NowMs() + ms;
    for (auto &vm : *vms) {
        if (vm->outcome != Outcome::kRunning) {
            continue;
        }
        if (vm->asked == Vm::Asked::kNothing) {
            Ask(vm.get(), Vm::Asked::kMigrate, "query-migrate");
        } else if (NowMs() - vm->asked_ms > kSilentMs) {
            Gone(vm.get(), "its source's monitor has been silent for a minute: see whether this "
                           "QEMU is stopped");
        }
    }
    for (;;) {
        std::vector<pollfd> entries;
        std::vector<Vm *> asked;
        for (auto &vm : *vms) {
            if (vm->outcome == Outcome::kRunning && vm->asked != Vm::Asked::kNothing) {
                entries.push_back({.fd = vm->source->fd(), .events = POLLIN, .revents = 0});
                asked.push_back(vm.get());
            }
        }
        int64_t left = end - NowMs();
        if (left <= 0) {
            return;
        }
        int n = poll(entries.data(), entries.size(), static_cast<int>(left));
        if (n <= 0) {
            return; // time is up, or a signal the caller looks at
        }
        for (size_t i = 0; i < entries.size(); i++) {
            if (entries[i].revents) {
                TakeAnswer(asked[i]);
            }
        }
    }
}

void CancelRunning(Vms *vms, const std::string &why) {
    for (auto &vm : *vms) {
        if (vm->outcome == Outcome::kRunning && vm->ends == Outcome::kRunning) {
            vm->error = why;
            Ask(vm.get(), Vm::Asked::kCancel, "migrate_cancel");
        }
    }
}

namespace {

// The monitor's run state; empty when it does not say.
std::string RunState(QmpClient *qmp) {
    json info;
    std::string state;
    if (qmp && qmp->Execute("query-status", {}, &info, kLocateMs).ok()) {
        GetString(info, "status", &state);
    }
    return state;
}

void LocateOne(Vm *vm, int64_t deadline) {
    if (vm->outcome != Outcome::kCompleted) {
        std::string state = RunState(vm->source.get());
        if (!state.empty() && state != "postmigrate") {
            vm->at = "source";
            vm->run_state = state;
            return;
        }
    }
    std::string state = RunState(vm->destination.get());
    while (vm->outcome == Outcome::kCompleted && state == "inmigrate" && interrupts < 2 &&
           NowMs() < deadline) {
        poll(nullptr, 0, kLoadPollMs);
        state = RunState(vm->destination.get());
    }
    if (!state.empty() && state != "inmigrate") {
        vm->at = "destination";
        vm->run_state = state;
    } else if (vm->outcome == Outcome::kCompleted && vm->destination) {
        Fail(vm, state == "inmigrate"
                     ? "the source has completed, the destination still loads: look at it "
                       "again with query-status"
                     : "the source has completed, but the destination's QEMU is gone");
    } else if (vm->outcome == Outcome::kCompleted) {
        vm->at = "destination";
    }
}

} // namespace

void Locate(Vms *vms) {
    int64_t deadline = NowMs() + kLoadMs;
    for (auto &vm : *vms) {
        LocateOne(vm.get(), deadline);
    }
}

} // namespace gangctl
