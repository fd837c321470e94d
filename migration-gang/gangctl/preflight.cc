// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Checks before the start: see preflight.h.

#include "preflight.h"

#include <sys/stat.h>

#include <map>
#include <set>

#include <fmt/format.h>

#include "control.h"
#include "control_message.h"
#include "interrupt.h"

namespace gangctl {

using gang::Status;
using nlohmann::json;

namespace {

constexpr int kConnectMs = 5000;

const std::set<std::string> kMovable = {"running", "paused", "prelaunch", "suspended"};

bool HasCommand(const json &commands, const std::string &name) {
    for (const json &command : commands) {
        std::string text;
        if (gang::GetString(command, "name", &text) && text == name) {
            return true;
        }
    }
    return false;
}

// What `role` says of itself; problems are appended to `problems`.
struct Answers {
    std::string run_state;
    std::string migration = "none";
    std::string name; // -name
    bool gang_command = false;
};

bool Ask(QmpClient *qmp, const std::string &who, const std::string &command, Answers *answers,
         std::vector<std::string> *problems) {
    json status, migration, commands, name;
    const std::pair<const char *, json *> queries[] = {{"query-status", &status},
                                                       {"query-migrate", &migration},
                                                       {"query-commands", &commands},
                                                       {"query-name", &name}};
    for (auto [query, result] : queries) {
        Status asked = qmp->Execute(query, {}, result);
        if (!asked.ok()) {
            problems->push_back(who + ": " + asked.message());
            return false;
        }
    }
    gang::GetString(status, "status", &answers->run_state);
    gang::GetString(migration, "status", &answers->migration);
    gang::GetString(name, "name", &answers->name);
    answers->gang_command = HasCommand(commands, command);
    if (!answers->gang_command) {
        problems->push_back(fmt::format("{}: its QEMU has no {}: start it with the QEMU of gang "
                                        "migration",
                                        who, command));
    }
    return answers->gang_command;
}

void CheckSource(Vm *vm, std::map<std::string, std::string> *names,
                 std::vector<std::string> *problems) {
    std::string who = vm->plan.name + " (source)";
    Status status = QmpClient::Connect(vm->plan.source, kConnectMs, &vm->source);
    if (!status.ok()) {
        problems->push_back(who + ": " + status.message());
        return;
    }
    Answers answers;
    if (!Ask(vm->source.get(), who, "gang-migrate", &answers, problems)) {
        return;
    }
    if (!AtRest(answers.migration)) {
        problems->push_back(fmt::format("{}: it migrates already ({}): wait for its end, or end it "
                                        "with gangctl cancel",
                                        who, answers.migration));
    } else if (answers.run_state == "postmigrate") {
        problems->push_back(who + ": it has migrated away already; its VM is where that "
                                  "migration went, end this QEMU");
    } else if (!kMovable.count(answers.run_state)) {
        problems->push_back(fmt::format("{}: it is '{}': a VM that migrates is running or paused",
                                        who, answers.run_state));
    }
    // The coordinator knows members by QEMU's own -name.
    if (!answers.name.empty()) {
        auto [at, added] = names->emplace(answers.name, vm->plan.name);
        if (!added) {
            problems->push_back(fmt::format("{}: its QEMU has the same -name '{}' as that of {}: "
                                            "give each VM a name of its own",
                                            who, answers.name, at->second));
        }
    }
}

void CheckDestination(Vm *vm, std::vector<std::string> *problems) {
    std::string who = vm->plan.name + " (destination)";
    Status status = QmpClient::Connect(vm->plan.destination, kConnectMs, &vm->destination);
    if (!status.ok()) {
        problems->push_back(who + ": " + status.message());
        return;
    }
    Answers answers;
    if (Ask(vm->destination.get(), who, "gang-migrate-incoming", &answers, problems) &&
        (answers.run_state != "inmigrate" || !AtRest(answers.migration))) {
        problems->push_back(fmt::format("{}: it does not wait for a migration ({}, migration {}): "
                                        "start it with -incoming defer",
                                        who, answers.run_state, answers.migration));
    }
}

void CheckCoordinator(const std::string &path, const char *role, Findings *findings) {
    struct stat st;
    if (stat(path.c_str(), &st) != 0) {
        findings->notes.push_back(fmt::format("{} coordinator {}: no such socket on this host; "
                                              "not looked at",
                                              role, path));
        return;
    }
    std::unique_ptr<gang::ControlClient> client;
    Status status = gang::ControlClient::Connect(path, kConnectMs, &client);
    if (status.ok()) {
        // As a member would: gangd of another build is found out here.
        status = client->Hello("gangctl", true, kConnectMs);
    }
    if (!status.ok()) {
        findings->problems.push_back(fmt::format("{} {}", role, status.message()));
    }
}

} // namespace

Findings Preflight(const Plan &plan, Vms *vms) {
    Findings findings;
    CheckCoordinator(plan.source_coordinator, "source", &findings);
    CheckCoordinator(plan.destination_coordinator, "destination", &findings);
    std::map<std::string, std::string> names;
    for (auto &vm : *vms) {
        if (interrupts) {
            break;
        }
        CheckSource(vm.get(), &names, &findings.problems);
        CheckDestination(vm.get(), &findings.problems);
    }
    return findings;
}

} // namespace gangctl
