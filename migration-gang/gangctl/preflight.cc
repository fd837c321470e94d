// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Checks before the start: see preflight.h.

#include "preflight.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <type_traits>

#include <fmt/format.h>

#include "control.h"
#include "control_message.h"
#include "interrupt.h"
#include "text.h"

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

// What one end says of itself; numbers are 0 and texts empty where it does not say.
struct Answers {
    std::string run_state;
    std::string migration = "none";
    std::string name; // -name
    bool gang_command = false;
    std::string machine;
    uint64_t ram_bytes = 0;
    uint64_t taken_bytes = 0; // of that, allocated before the guest comes
    uint64_t cpus = 0;
    std::string tls_creds;
    std::vector<std::string> blocked;   // why it cannot migrate
    std::vector<std::string> conflicts; // capabilities that are on and do not go with a gang
};

// gang-migrate would refuse them, but only when others may have started.
const std::set<std::string> kConflicts = {"postcopy-ram",    "xbzrle",
                                          "mapped-ram",      "x-colo",
                                          "rdma-pin-all",    "zero-copy-send",
                                          "background-snapshot"};

// What not every monitor answers; only one that is gone is an error.
Status AskMore(QmpClient *qmp, Answers *answers) {
    json memory, type, cpus, parameters, capabilities, backends;
    const std::tuple<const char *, json, json *> queries[] = {
        {"query-memory-size-summary", {}, &memory},
        {"qom-get", {{"path", "/machine"}, {"property", "type"}}, &type},
        {"query-cpus-fast", {}, &cpus},
        {"query-migrate-parameters", {}, &parameters},
        {"query-migrate-capabilities", {}, &capabilities},
        {"query-memdev", {}, &backends}};
    for (const auto &[query, arguments, result] : queries) {
        Status asked = qmp->Execute(query, arguments, result);
        if (asked.code() == gang::Code::kUnavailable) {
            return asked;
        }
    }
    uint64_t base = 0, plugged = 0;
    gang::GetUint(memory, "base-memory", INT64_MAX, &base);
    gang::GetUint(memory, "plugged-memory", INT64_MAX, &plugged);
    answers->ram_bytes = base + plugged;
    if (type.is_string()) {
        answers->machine = type.get<std::string>();
    }
    answers->cpus = cpus.is_array() ? cpus.size() : 0;
    gang::GetString(parameters, "tls-creds", &answers->tls_creds);
    for (const json &capability : capabilities.is_array() ? capabilities : json::array()) {
        std::string name;
        if (gang::GetString(capability, "capability", &name) && kConflicts.count(name) &&
            capability.value("state", json()) == json(true)) {
            answers->conflicts.push_back(name);
        }
    }
    for (const json &backend : backends.is_array() ? backends : json::array()) {
        uint64_t size = 0;
        if (backend.is_object() && backend.value("prealloc", json()) == json(true) &&
            gang::GetUint(backend, "size", INT64_MAX, &size)) {
            answers->taken_bytes += size;
        }
    }
    return Status::Ok();
}

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
    if (Status asked = AskMore(qmp, answers); !asked.ok()) {
        problems->push_back(who + ": " + asked.message());
        return false;
    }
    gang::GetString(status, "status", &answers->run_state);
    gang::GetString(migration, "status", &answers->migration);
    gang::GetString(name, "name", &answers->name);
    if (auto reasons = migration.find("blocked-reasons");
        reasons != migration.end() && reasons->is_array()) {
        for (const json &reason : *reasons) {
            answers->blocked.push_back(reason.is_string() ? reason.get<std::string>() : "");
        }
    }
    answers->gang_command = HasCommand(commands, command);
    if (!answers->gang_command) {
        problems->push_back(fmt::format("{}: its QEMU has no {}: start it with the QEMU of gang "
                                        "migration",
                                        who, command));
    }
    return answers->gang_command;
}

// False: it did not say enough to be compared with its destination.
bool CheckSource(Vm *vm, std::map<std::string, std::string> *names, Answers *told,
                 std::vector<std::string> *problems) {
    std::string who = vm->plan.name + " (source)";
    Status status = QmpClient::Connect(vm->plan.source, kConnectMs, &vm->source);
    if (!status.ok()) {
        problems->push_back(who + ": " + status.message());
        return false;
    }
    Answers &answers = *told;
    if (!Ask(vm->source.get(), who, "gang-migrate", &answers, problems)) {
        return false;
    }
    for (const std::string &reason : answers.blocked) {
        problems->push_back(fmt::format("{}: it cannot migrate: {}", who, reason));
    }
    for (const std::string &capability : answers.conflicts) {
        problems->push_back(fmt::format("{}: its migration capability {} does not go with a gang: "
                                        "switch it off",
                                        who, capability));
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
    return true;
}

bool CheckDestination(Vm *vm, Answers *told, std::vector<std::string> *problems) {
    std::string who = vm->plan.name + " (destination)";
    Status status = QmpClient::Connect(vm->plan.destination, kConnectMs, &vm->destination);
    if (!status.ok()) {
        problems->push_back(who + ": " + status.message());
        return false;
    }
    Answers &answers = *told;
    if (!Ask(vm->destination.get(), who, "gang-migrate-incoming", &answers, problems)) {
        return false;
    }
    if (answers.run_state != "inmigrate" || !AtRest(answers.migration)) {
        problems->push_back(fmt::format("{}: it does not wait for a migration ({}, migration {}): "
                                        "start it with -incoming defer",
                                        who, answers.run_state, answers.migration));
    }
    return true;
}

// What would only come out when the guest's state is loaded, the VM stopped.
void CompareEnds(const Vm &vm, const Answers &source, const Answers &destination,
                 Findings *findings) {
    const std::string who = vm.plan.name + " (destination)";
    auto differs = [&](const auto &here, const auto &there) {
        using T = std::decay_t<decltype(here)>;
        return here != T{} && there != T{} && here != there;
    };
    if (differs(source.ram_bytes, destination.ram_bytes)) {
        findings->problems.push_back(
            fmt::format("{}: it has {} of RAM, its source {}: start it with the same -m", who,
                        Bytes(static_cast<double>(destination.ram_bytes)),
                        Bytes(static_cast<double>(source.ram_bytes))));
    }
    if (differs(source.machine, destination.machine)) {
        findings->problems.push_back(
            fmt::format("{}: its machine is {}, its source's {}: start it with the same -machine",
                        who, destination.machine, source.machine));
    }
    if (differs(source.cpus, destination.cpus)) {
        findings->problems.push_back(fmt::format("{}: it has {} CPUs, its source {}: start it "
                                                 "with the same -smp",
                                                 who, destination.cpus, source.cpus));
    }
    if (source.tls_creds.empty() != destination.tls_creds.empty()) {
        findings->problems.push_back(fmt::format("{}: TLS is set up at {} only: set tls-creds at "
                                                 "both ends, or at none",
                                                 who,
                                                 source.tls_creds.empty() ? "the destination"
                                                                          : "the source"));
    }
    const std::string &here = vm.source->version(), &there = vm.destination->version();
    if (differs(here, there)) {
        findings->notes.push_back(fmt::format("{}: QEMU {} there, {} at the source: both need a "
                                              "machine type that both have",
                                              who, there, here));
    }
}

// What the destination's coordinator says of its host; 0: it does not.
struct Room {
    uint64_t available = 0, store = 0;
};

void CheckMemory(const Room &room, uint64_t guests, bool overcommit, Findings *findings) {
    if (!room.available || !guests) {
        return;
    }
    // Clones fill a store of about a third of their RAM, and never more than it may hold.
    uint64_t store = std::min(room.store, guests / 3);
    if (guests + store <= room.available) {
        return;
    }
    std::string text = fmt::format(
        "the destination host has {} of memory available, the guests may need {} and the store "
        "about {}",
        Bytes(static_cast<double>(room.available)), Bytes(static_cast<double>(guests)),
        Bytes(static_cast<double>(store)));
    if (overcommit) {
        findings->notes.push_back(text);
    } else {
        findings->problems.push_back(text + ": move fewer VMs, lower gangd's store-size there, or "
                                            "say --overcommit");
    }
}

// Not every user may ask for its status: then it is not looked at.
void LookAtStatus(gang::ControlClient *client, const std::string &gang, const char *role,
                  Room *room, Findings *findings) {
    json status;
    if (Status asked = client->QueryStatus(&status, kConnectMs); !asked.ok()) {
        findings->notes.push_back(fmt::format("{} coordinator: its status was not told ({}): its "
                                              "gangs and memory are not checked",
                                              role, asked.message()));
        return;
    }
    gang::GetUint(status, "memory-available", INT64_MAX, &room->available);
    gang::GetUint(status, "store-size", INT64_MAX, &room->store);
    for (const json &known : status.value("gangs", json::array())) {
        std::string id, where, state;
        if (!gang::GetString(known, "gang", &id) || id != gang ||
            !gang::GetString(known, "role", &where) || where != role || where != "source") {
            continue;
        }
        for (const json &member : known.value("members", json::array())) {
            if (gang::GetString(member, "state", &state) && state == "alive") {
                findings->problems.push_back(fmt::format(
                    "{} coordinator: a gang {} is under way: wait for its end, or give this one "
                    "another id",
                    role, gang));
                return;
            }
        }
    }
}

void CheckCoordinator(const std::string &path, const char *role, const std::string &gang,
                      Room *room, Findings *findings) {
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
        return;
    }
    if (Status hello = gang::ControlClient::Connect(path, kConnectMs, &client); hello.ok()) {
        hello = client->Hello("gangctl", false, kConnectMs);
        if (hello.ok()) {
            LookAtStatus(client.get(), gang, role, room, findings);
        }
    }
}

} // namespace

Findings Preflight(const Plan &plan, Vms *vms) {
    Findings findings;
    Room ignored, room;
    CheckCoordinator(plan.source_coordinator, "source", plan.gang, &ignored, &findings);
    CheckCoordinator(plan.destination_coordinator, "destination", plan.gang, &room, &findings);
    std::map<std::string, std::string> names;
    uint64_t guests = 0;
    for (auto &vm : *vms) {
        if (interrupts) {
            break;
        }
        Answers source, destination;
        bool told = CheckSource(vm.get(), &names, &source, &findings.problems);
        told &= CheckDestination(vm.get(), &destination, &findings.problems);
        if (told) {
            CompareEnds(*vm, source, destination, &findings);
        }
        guests += source.ram_bytes - std::min(source.ram_bytes, destination.taken_bytes);
    }
    CheckMemory(room, guests, plan.overcommit, &findings);
    return findings;
}

} // namespace gangctl
