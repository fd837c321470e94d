// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Flags and configuration by CLI11: each flag is a key of the file too.

#include "options.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include <CLI/CLI.hpp>

#include "control_message.h"
#include "size_text.h"

namespace gangd {

namespace {

constexpr int kUsage = 2;

uint64_t HostMemory() {
    struct sysinfo info;
    return sysinfo(&info) == 0 ? uint64_t{info.totalram} * info.mem_unit : uint64_t{4} << 30;
}

// Turns "2G" into "2147483648".
CLI::Validator Bytes() {
    return CLI::Validator(
        [](std::string &text) {
            uint64_t bytes = 0;
            if (!gang::ParseSize(text, &bytes)) {
                return "'" + text + "' is not a size: use bytes or K, M, G, T, as 512M or 2GiB";
            }
            text = std::to_string(bytes);
            return std::string();
        },
        "BYTES");
}

int Wrong(const std::string &message) {
    fprintf(stderr, "gangd: %s\nSee gangd --help.\n", message.c_str());
    return kUsage;
}

} // namespace

std::optional<int> ParseOptions(int argc, char **argv, Options *options) {
    const uint64_t memory = HostMemory();
    Limits &limits = options->server.limits;
    limits.store_bytes = memory / 4;
    limits.store_total = memory / 2;
    limits.mirror_bytes = memory / 16;
    uint64_t max_ram = 2 * memory, max_total_ram = 8 * memory;
    double barrier_s = 60, hello_s = 10, idle_s = 300, keep_s = 300;
    double ready_s = gang::kDefaultReadyMs / 1e3, stopped_s = gang::kDefaultStoppedMs / 1e3;
    std::string hash = gang::HashKindText(limits.hash_kind);
    std::vector<std::string> users, groups, operators;
    ServerConfig &server = options->server;
    server.max_process_clients = 8;
    options->socket = gang::kDefaultControlSocket;
    options->log_level = "info";

    CLI::App app{"gangd: coordinator of the live gang migrations of this host.\n"
                 "QEMU processes that migrate together meet here and get the memory they share;\n"
                 "their data does not pass through it.",
                 "gangd"};
    app.set_version_flag("--version", "gangd " GANG_VERSION);
    app.set_config("--config", "/etc/gang/gangd.conf",
                   "Configuration file: flags without their dashes, one a line");
    app.allow_config_extras(CLI::config_extras_mode::error);
    app.add_option("--socket", options->socket, "Socket to listen at (not with socket activation)")
        ->capture_default_str();
    app.add_option("--store-size", limits.store_bytes,
                   "Most memory for the pages kept for one incoming gang\n"
                   "(default: a quarter of the host's)")
        ->transform(Bytes());
    app.add_option("--store-total", limits.store_total,
                   "Most memory for the pages kept for all incoming gangs together\n"
                   "(default: half of the host's); of one user but root three quarters of it")
        ->transform(Bytes());
    app.add_option("--store-keep", keep_s,
                   "Seconds that the store of an incoming gang that failed or was cancelled is\n"
                   "kept for another attempt; 0: it is wiped at once")
        ->check(CLI::Range(0.0, 86400.0))
        ->capture_default_str();
    app.add_flag("--keep-shared-only", limits.keep_shared_only,
                 "Keep what the gang's VMs had in common, no memory that only one VM had");
    app.add_option("--mirror-size", limits.mirror_bytes,
                   "Most memory for copies of the pages that one outgoing gang codes\n"
                   "similar pages against; 0: it does not (default: a sixteenth of the host's)")
        ->transform(Bytes());
    app.add_option("--hash", hash,
                   "What names a content in incoming gangs: xxh3-128 (fast; only for members\n"
                   "that trust each other) or sha256; a member may ask for a stronger one")
        ->check(CLI::IsMember({"xxh3-128", "sha256"}))
        ->capture_default_str();
    app.add_option("--barrier-timeout", barrier_s,
                   "Seconds that members wait for each other before they start")
        ->check(CLI::Range(0.0, 86400.0))
        ->capture_default_str();
    app.add_option("--ready-timeout", ready_s,
                   "Seconds that a member near its end waits for the others of a gang whose VMs\n"
                   "stop together; then they do without those, or give an all-or-nothing gang up")
        ->check(CLI::Range(0.1, 86400.0))
        ->capture_default_str();
    app.add_option("--stopped-timeout", stopped_s,
                   "Seconds that a VM of an all-or-nothing gang stays stopped for the others")
        ->check(CLI::Range(0.1, 3600.0))
        ->capture_default_str();
    app.add_option("--turn-limit", limits.turn_ms,
                   "Milliseconds that a VM about to converge may have the link while the\n"
                   "others of its gang wait; 0: they do not")
        ->check(CLI::Range(uint64_t{0}, gang::Turns::kMaxTurnMs))
        ->capture_default_str();
    app.add_option("--bulk-members", limits.bulk_members,
                   "Most VMs of a gang in their first round at a time; 0: all")
        ->check(CLI::Range(uint64_t{0}, uint64_t{gang::kMaxMembers}))
        ->capture_default_str();
    app.add_option("--allow-user", users,
                   "User (name or number) whose VMs may join, besides root and gangd's own");
    app.add_option("--allow-group", groups, "Group (name or number) whose users' VMs may join");
    app.add_option("--allow-operator", operators,
                   "User (name or number) that may see the status, besides root and gangd's own,\n"
                   "and join nothing");
    app.add_flag("--share-across-users", limits.across_users,
                 "VMs that run as different users may be in one gang");
    app.add_flag("--intra-vm-only", limits.intra_vm,
                 "Each VM shares with itself only, whatever its gang (set it on both hosts)");
    app.add_option("--max-gangs", limits.max_gangs, "Most gangs at a time, incoming and outgoing")
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
    CLI::Option *user_gangs =
        app.add_option("--max-user-gangs", limits.max_user_gangs,
                       "Most gangs of one user but root (default: three quarters of max-gangs)")
            ->check(CLI::Range(1, 10000));
    app.add_option("--max-clients", server.max_clients, "Most connections at a time")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    CLI::Option *user_clients = app.add_option("--max-user-clients", server.max_user_clients,
                                               "Most connections of one user but root\n"
                                               "(default: three quarters of max-clients)")
                                    ->check(CLI::Range(1, 100000));
    app.add_option("--max-process-clients", server.max_process_clients,
                   "Most connections of one process; a VM has one")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_option("--max-requests", server.max_requests, "Most requests of one client in a second")
        ->check(CLI::Range(1, 1000000))
        ->capture_default_str();
    app.add_option("--hello-timeout", hello_s, "Seconds that a client has to say hello")
        ->check(CLI::Range(0.1, 3600.0))
        ->capture_default_str();
    app.add_option("--idle-timeout", idle_s,
                   "Seconds without a request after which a client that is no member, or has\n"
                   "left, is dropped")
        ->check(CLI::Range(0.1, 86400.0))
        ->capture_default_str();
    app.add_option("--max-ram", max_ram,
                   "Most RAM one VM may have (default: twice the host's memory)")
        ->transform(Bytes());
    app.add_option("--max-total-ram", max_total_ram,
                   "Most RAM all outgoing VMs may have (default: eight times the host's memory);\n"
                   "of one user but root three quarters of it")
        ->transform(Bytes());
    app.add_flag("--no-seccomp", options->no_seccomp,
                 "Without the filter of system calls, for debugging");
    app.add_option("--metrics", options->metrics,
                   "Serve figures for Prometheus at this unix socket's path, or at\n"
                   "127.0.0.1:PORT or [::1]:PORT (default: nowhere)");
    app.add_option("--log-level", options->log_level, "debug, info, warning or error")
        ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
        ->capture_default_str();
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? 0 : kUsage;
    }

    if (options->socket.empty()) {
        return Wrong("--socket needs a path");
    }
    if (limits.store_bytes < kMinStoreBytes) {
        return Wrong("--store-size needs at least " + std::to_string(kMinStoreBytes) + " bytes");
    }
    if (max_ram < gang::kPageSize) {
        return Wrong("--max-ram needs at least one page of 4096 bytes");
    }
    // Of a small limit a quarter rounds to nothing.
    if (user_gangs->empty()) {
        limits.max_user_gangs = limits.max_gangs - limits.max_gangs / 4;
    }
    if (user_clients->empty()) {
        server.max_user_clients = server.max_clients - server.max_clients / 4;
    }
    for (const std::string &name : operators) {
        if (gang::Status status = server.access.AllowOperator(name); !status.ok()) {
            return Wrong(status.message());
        }
    }
    for (const std::string &user : users) {
        if (gang::Status status = server.access.AllowUser(user); !status.ok()) {
            return Wrong(status.message());
        }
    }
    for (const std::string &group : groups) {
        if (gang::Status status = server.access.AllowGroup(group); !status.ok()) {
            return Wrong(status.message());
        }
    }
    if (!gang::HashKindFromName(hash, &limits.hash_kind)) {
        return Wrong("--hash knows xxh3-128 and sha256");
    }
    limits.barrier_ms = static_cast<uint64_t>(barrier_s * 1000);
    limits.keep_ms = static_cast<uint64_t>(keep_s * 1000);
    limits.ready_ms = static_cast<uint64_t>(ready_s * 1000);
    limits.stopped_ms = static_cast<uint64_t>(stopped_s * 1000);
    limits.max_member_pages = max_ram / gang::kPageSize;
    limits.max_total_pages = std::max(max_total_ram, max_ram) / gang::kPageSize;
    server.hello_ms = static_cast<unsigned>(hello_s * 1000);
    server.idle_ms = static_cast<unsigned>(idle_s * 1000);
    return std::nullopt;
}

} // namespace gangd
