// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// status and watch: the coordinator's answer as a table or as it came.

#include "view.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <memory>

#include "control.h"
#include "control_message.h"
#include "interrupt.h"
#include "text.h"

namespace gangctl {

using gang::Status;
using nlohmann::json;

namespace {

constexpr int kTimeoutMs = 5000;

Status Query(const std::string &socket, json *status) {
    std::unique_ptr<gang::ControlClient> client;
    Status result = gang::ControlClient::Connect(socket, kTimeoutMs, &client);
    if (result.ok()) {
        result = client->Hello("gangctl", false, kTimeoutMs);
    }
    if (result.ok()) {
        result = client->QueryStatus(status, kTimeoutMs);
    }
    return result;
}

std::string Text(const json &object, const char *key) {
    std::string text = "-";
    gang::GetString(object, key, &text);
    return Plain(text);
}

uint64_t Number(const json &object, const char *key) {
    uint64_t number = 0;
    gang::GetUint(object, key, UINT64_MAX, &number);
    return number;
}

const json &List(const json &object, const char *key) {
    static const json kEmpty = json::array();
    auto it = object.find(key);
    return it != object.end() && it->is_array() ? *it : kEmpty;
}

std::string Bytes(uint64_t bytes) {
    return gangctl::Bytes(static_cast<double>(bytes));
}

std::string SourceTable(const json &gang) {
    std::string out = fmt::format("gang {} (source): {}, {} of {} members listed\n",
                                  Text(gang, "gang"), Text(gang, "phase"),
                                  List(gang, "members").size(), Number(gang, "members-expected"));
    if (auto it = gang.find("switchover");
        it != gang.end() && it->is_object() && Text(*it, "policy") != "independent") {
        out += fmt::format("  {}: {} ready, {} stopped within {:.1f} ms, {} later{}\n",
                           Text(*it, "policy"), Number(*it, "ready"), Number(*it, "stopped"),
                           static_cast<double>(Number(*it, "skew-us")) / 1000, Number(*it, "late"),
                           it->contains("decision") ? ", " + Text(*it, "decision") : "");
    }
    std::string missing;
    for (const json &name : List(gang, "missing")) {
        missing += (missing.empty() ? "" : ", ") +
                   (name.is_string() ? Plain(name.get<std::string>()) : "-");
    }
    if (!missing.empty()) {
        out += "  missing: " + missing + "\n";
    }
    if (uint64_t limit = Number(gang, "max-bandwidth")) {
        out += fmt::format("  at most {}/s together\n", Bytes(limit));
    }
    if (uint64_t limit = Number(gang, "bulk-members")) {
        out += fmt::format("  at most {} in their first round\n", limit);
    }
    if (std::string turn = Text(gang, "turn"); turn != "-" && !turn.empty()) {
        out += fmt::format("  the turn is {}'s\n", turn);
    }
    for (const json &store : List(gang, "stores")) {
        out += fmt::format("  directory {}, {} contents, {} of {} slots taken\n",
                           Bytes(Number(store, "directory-bytes")), Number(store, "entries-used"),
                           Number(store, "slots-taken"), Number(store, "slots"));
    }
    out +=
        fmt::format("  {:<16} {:>8} {:<10} {:<11} {:>6} {:>10} {:>9} {:>9} {:>9} {:>10} {:>11}\n",
                    "member", "pid", "state", "phase", "done", "remaining", "zero", "literal",
                    "published", "referenced", "sent");
    for (const json &m : List(gang, "members")) {
        double done = static_cast<double>(Number(m, "progress-permille")) / 10;
        out += fmt::format("  {:<16} {:>8} {:<10} {:<11} {:>5.1f}% {:>10} {:>9} {:>9} {:>9} {:>10} "
                           "{:>11}\n",
                           Text(m, "member"), Number(m, "pid"), Text(m, "state"), Text(m, "phase"),
                           done, Number(m, "remaining-pages"), Number(m, "zero-pages"),
                           Number(m, "literal-pages"), Number(m, "published-pages"),
                           Number(m, "referenced-pages"),
                           Bytes(Number(m, "payload-bytes") + Number(m, "metadata-bytes")));
    }
    return out;
}

std::string DestinationTable(const json &gang) {
    std::string out = fmt::format("gang {} (destination): store {}, {} of {} slots used\n",
                                  Text(gang, "gang"), Bytes(Number(gang, "store-bytes")),
                                  Number(gang, "slots-used"), Number(gang, "slots"));
    out += fmt::format("  {:<16} {:>8} {:<10}\n", "member", "pid", "state");
    for (const json &m : List(gang, "members")) {
        out += fmt::format("  {:<16} {:>8} {:<10}\n", Text(m, "member"), Number(m, "pid"),
                           Text(m, "state"));
    }
    return out;
}

std::string KeptTable(const json &status) {
    std::string out;
    for (const json &kept : List(status, "kept")) {
        out += fmt::format("\ngang {}: store {} kept for another attempt, {} s left\n",
                           Text(kept, "gang"), Bytes(Number(kept, "store-bytes")),
                           Number(kept, "seconds-left"));
    }
    return out;
}

std::string Table(const json &status) {
    std::string out =
        fmt::format("gangd {} (pid {})\n", Text(status, "gangd"), Number(status, "pid"));
    if (List(status, "gangs").empty()) {
        out += "no gang migrates\n";
    }
    for (const json &gang : List(status, "gangs")) {
        out += "\n" + (Text(gang, "role") == "source" ? SourceTable(gang) : DestinationTable(gang));
    }
    out += KeptTable(status);
    return out;
}

int Show(const std::string &socket, bool as_json, const char *before) {
    json status;
    if (Status result = Query(socket, &status); !result.ok()) {
        if (as_json) {
            fputs(JsonLine({{"error", result.message()}}).c_str(), stdout);
            fflush(stdout);
        } else {
            fmt::print(stderr, "gangctl: {}\n", Plain(result.message()));
        }
        return kExitFailed;
    }
    fputs(before, stdout);
    fputs((as_json ? JsonLine(status) : Table(status)).c_str(), stdout);
    // A reader that went away is a failure, not a reason to go on for ever.
    return fflush(stdout) == 0 ? 0 : kExitFailed;
}

} // namespace

int ShowStatus(const std::string &socket, bool as_json) {
    return Show(socket, as_json, "");
}

int ForgetKept(const std::string &socket, const std::string &gang) {
    std::unique_ptr<gang::ControlClient> client;
    uint64_t stores = 0;
    Status result = gang::ControlClient::Connect(socket, kTimeoutMs, &client);
    if (result.ok()) {
        result = client->Hello("gangctl", false, kTimeoutMs);
    }
    if (result.ok()) {
        result = client->Forget(gang, &stores, kTimeoutMs);
    }
    if (!result.ok()) {
        fmt::print(stderr, "gangctl: {}\n", Plain(result.message()));
        return kExitFailed;
    }
    fmt::print("{} stores dropped\n", stores);
    return 0;
}

int WatchStatus(const std::string &socket, double interval, uint64_t count, bool as_json) {
    bool screen = !as_json && isatty(STDOUT_FILENO);
    for (uint64_t i = 0; count == 0 || i < count; i++) {
        if (i > 0) {
            double whole = std::floor(interval);
            timespec rest = {static_cast<time_t>(whole),
                             static_cast<long>((interval - whole) * 1e9)};
            if (!interrupts) {
                nanosleep(&rest, nullptr);
            }
            if (!as_json && !screen) {
                fputs("\n", stdout);
            }
        }
        if (interrupts) {
            return kExitInterrupted;
        }
        if (int code = Show(socket, as_json, screen ? "\x1b[H\x1b[2J" : ""); code != 0) {
            return code;
        }
    }
    return 0;
}

} // namespace gangctl
