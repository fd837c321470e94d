// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gangd's life: options, socket, service manager, main loop, end.

#include <glib-unix.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>

#include <spdlog/spdlog.h>

#include "listener.h"
#include "log.h"
#include "notifier.h"
#include "options.h"
#include "sandbox.h"
#include "server.h"

namespace {

// For each client, and two for each directory that its gang may have, and for what else a
// gang has.
void RaiseFileLimit(const gangd::ServerConfig &config) {
    rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    rlim_t wanted = config.max_clients * 2 +
                    config.limits.max_gangs * (2 * gangd::kMaxStoresOfGang + 6) + 256;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = std::min(wanted, limit.rlim_max);
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur < wanted) {
        spdlog::warn("only {} descriptors for {} clients: raise LimitNOFILE= or lower max-clients",
                     limit.rlim_cur, config.max_clients);
    }
}

gboolean Quit(void *loop) {
    g_main_loop_quit(static_cast<GMainLoop *>(loop));
    return G_SOURCE_CONTINUE;
}

gboolean Alive(void *notifier) {
    static_cast<gangd::Notifier *>(notifier)->Say("WATCHDOG=1");
    return G_SOURCE_CONTINUE;
}

// Between set-up and the first client.  False: gangd may not serve so.
bool GiveUpPrivileges(const gangd::Options &options) {
    if (geteuid() == 0) {
        spdlog::warn("runs as root, and needs nothing of it: see gangd.service");
    }
    if (options.no_seccomp || !gangd::SandboxPossible()) {
        spdlog::warn("no system call filter: {}",
                     options.no_seccomp ? "--no-seccomp" : "this build has a sanitizer");
        return true;
    }
    gang::Status status = gangd::EnterSandbox();
    if (status.code() == gang::Code::kUnavailable) {
        spdlog::warn("no system call filter: {}", status.message());
        return true;
    }
    if (!status.ok()) {
        spdlog::critical("{}", status.message());
    }
    return status.ok();
}

} // namespace

int main(int argc, char **argv) {
    gangd::Options options;
    if (auto status = gangd::ParseOptions(argc, argv, &options)) {
        return *status;
    }
    gangd::SetUpLog(options.log_level);
    signal(SIGPIPE, SIG_IGN); // a log reader that went away ends nobody's migration
    RaiseFileLimit(options.server);

    // Before there is a socket's file that a signal would leave behind.
    GMainLoop *loop = g_main_loop_new(nullptr, FALSE);
    g_unix_signal_add(SIGTERM, Quit, loop);
    g_unix_signal_add(SIGINT, Quit, loop);

    std::unique_ptr<gangd::Listener> listener;
    gang::Status status = gangd::Listener::Inherit(&listener);
    if (status.ok() && !listener) {
        status = gangd::Listener::Open(options.socket, &listener);
    }
    if (!status.ok()) {
        spdlog::critical("{}", status.message());
        return 1;
    }
    spdlog::info("gangd {} listens at {}", GANG_VERSION, listener->name());
    gangd::Notifier notifier;

    uint64_t watchdog_us = 0;
    if (sd_watchdog_enabled(0, &watchdog_us) > 0) {
        g_timeout_add(static_cast<guint>(std::max<uint64_t>(watchdog_us / 2000, 1)), Alive,
                      &notifier);
    }
    {
        gangd::Server server(options.server, std::move(listener), &notifier);
        if (!options.metrics.empty()) {
            if (status = server.ServeMetrics(options.metrics); !status.ok()) {
                spdlog::critical("{}", status.message());
                return 1;
            }
            if (options.metrics.find('/') == std::string::npos) {
                spdlog::warn("metrics at {}: every user of this host, QEMUs too, can read the gangs' "
                             "ids and figures there",
                             options.metrics);
            }
        }
        // Nothing is opened from here on.
        if (!GiveUpPrivileges(options)) {
            return 1;
        }
        notifier.Say("READY=1");
        g_main_loop_run(loop);
        notifier.Say("STOPPING=1");
        spdlog::info("stops; migrations under way go on without coordinator");
    }
    g_main_loop_unref(loop);
    return 0;
}
