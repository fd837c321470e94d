// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Accepting, dispatching and forgetting clients: docs/control-protocol.md.

#include "server.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <spdlog/spdlog.h>

#include "control_message.h"

namespace gangd {

using nlohmann::json;

namespace {

constexpr unsigned kTickMs = 100;
constexpr unsigned kAcceptPauseMs = 200;
constexpr int kMaxAcceptsInTurn = 16; // then those who are in have their turn

uint64_t NowMs() {
    return static_cast<uint64_t>(g_get_monotonic_time() / 1000);
}

std::string Layout() {
    return gang::LayoutText(gang::LayoutSignature());
}

} // namespace

Server::Server(const ServerConfig &config, std::unique_ptr<Listener> listener, Notifier *notifier)
    : config_(config), listener_(std::move(listener)), notifier_(notifier),
      coordinator_(
          config.limits, [this](int fd) { wiper_.Add(fd); },
          [this](int fd) { return wiper_.Has(fd); }) {
    meminfo_ = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    Watch();
    Announce();
}

gang::Status Server::ServeMetrics(const std::string &address) {
    gang::Status status = MetricsServer::Open(
        address, [this] { return coordinator_.Metrics(); }, &metrics_);
    if (status.ok()) {
        spdlog::info("serves metrics at {}", address);
    }
    return status;
}

uint64_t Server::MemoryAvailable() const {
    char text[2048];
    ssize_t n = pread(meminfo_, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = 0;
    const char *at = strstr(text, "MemAvailable:");
    return at ? strtoull(at + strlen("MemAvailable:"), nullptr, 10) * 1024 : 0;
}

Server::~Server() {
    metrics_.reset();
    connections_.clear();
    if (meminfo_ >= 0) {
        close(meminfo_);
    }
    for (unsigned source : {listen_source_, tick_source_, reap_source_}) {
        if (source) {
            g_source_remove(source);
        }
    }
}

void Server::Watch() {
    listen_source_ = g_unix_fd_add(
        listener_->fd(), G_IO_IN,
        [](int, GIOCondition, void *opaque) -> gboolean {
            static_cast<Server *>(opaque)->Accept();
            return G_SOURCE_CONTINUE; // removed by Accept() if need be
        },
        this);
}

void Server::Accept() {
    for (int i = 0; i < kMaxAcceptsInTurn && AcceptOne(); i++) {
    }
}

bool Server::AcceptOne() {
    int fd = accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            // The connection stays in the backlog; asking again at once would
            // only take the processor from those who are in.
            spdlog::error("cannot accept a connection: {}", strerror(errno));
            g_source_remove(listen_source_);
            listen_source_ = g_timeout_add(
                kAcceptPauseMs,
                [](void *opaque) -> gboolean {
                    static_cast<Server *>(opaque)->Watch();
                    return G_SOURCE_REMOVE;
                },
                this);
        }
        return false;
    }
    PeerIdentity peer;
    Refusal refusal;
    if (gang::Status status = IdentifyPeer(fd, &peer); !status.ok()) {
        refusal = {"internal", status.message()};
    } else {
        refusal = Admit(peer);
    }
    auto connection = std::make_unique<Connection>(
        this, fd, peer, Pace{config_.max_requests, config_.hello_ms, config_.idle_ms});
    Connection *key = connection.get();
    connections_[key] = std::move(connection);
    if (refusal) {
        key->Refuse(refusal);
        key->Drop();
    }
    return true;
}

Refusal Server::Admit(const PeerIdentity &peer) const {
    if (!config_.access.MayConnect(peer)) {
        return {"denied", "user " + std::to_string(peer.uid) +
                              " may not use this coordinator: add it with allow-user in gangd's "
                              "configuration"};
    }
    size_t all = 0, of_user = 0, of_process = 0;
    for (const auto &[key, connection] : connections_) {
        if (!connection->dropped()) {
            all++;
            of_user += connection->peer().uid == peer.uid;
            of_process += connection->peer().pid == peer.pid;
        }
    }
    // A process that the kernel cannot name here (of another pid namespace) has
    // its user's limit.
    if (peer.pid != 0 && of_process >= config_.max_process_clients) {
        return {"limit", "this process has " + std::to_string(of_process) +
                             " connections, as many as max-process-clients allows"};
    }
    if (peer.uid != 0 && of_user >= config_.max_user_clients) {
        return {"limit", "user " + std::to_string(peer.uid) + " has " + std::to_string(of_user) +
                             " connections, as many as max-user-clients allows"};
    }
    if (all >= config_.max_clients) {
        return {"limit", "this coordinator has " + std::to_string(all) +
                             " connections, as many as max-clients allows"};
    }
    return {};
}

Refusal Server::Hello(Connection *connection, const json &request) {
    uint64_t version = 0;
    std::string layout;
    bool has_layout = gang::GetString(request, "layout", &layout);
    if (connection->greeted) {
        return {"protocol", "'hello' comes once"};
    }
    if (!gang::GetUint(request, "version", UINT32_MAX, &version) ||
        version != gang::kControlVersion) {
        return {"incompatible", "this gangd speaks version " +
                                    std::to_string(gang::kControlVersion) +
                                    " of the control protocol: install QEMU, gangctl and gangd of "
                                    "the same release"};
    }
    if (has_layout && layout != Layout()) {
        return {"incompatible", "this gangd lays out shared memory differently: install QEMU and "
                                "gangd of the same release"};
    }
    connection->greeted = true;
    connection->may_join = has_layout;
    connection->Send({{"op", "hello"},
                      {"version", gang::kControlVersion},
                      {"layout", Layout()},
                      {"gangd", GANG_VERSION}},
                     -1);
    return {};
}

Refusal Server::Join(Connection *connection, const std::string &op, const json &request, int fd) {
    if (!connection->may_join) {
        return {"incompatible", "a member says its 'layout' in its hello"};
    }
    if (connection->has_joined) {
        return {"protocol", "a connection joins once"};
    }
    if (!config_.access.MayJoin(connection->peer())) {
        return {"denied", "user " + std::to_string(connection->uid()) +
                              " may look on and join no gang: add it with allow-user in "
                              "gangd's configuration"};
    }
    connection->has_joined = true;
    const uint64_t pid = connection->pid();
    if (op == "join-source") {
        return coordinator_.JoinSource(connection, pid, request, NowMs());
    }
    if (op == "join-destination") {
        return coordinator_.JoinDestination(connection, pid, request);
    }
    Refusal refusal = op == "rejoin-source"
                          ? coordinator_.RejoinSource(connection, pid, request, fd)
                          : coordinator_.RejoinDestination(connection, pid, request, fd);
    if (!refusal) {
        connection->Send({{"op", "rejoined"}}, -1);
    }
    return refusal;
}

// Only from those whose segment may be of use.  What only looks like such a request
// brings its descriptor in vain.
bool Server::TakesDescriptor(Connection *connection, const std::string &text) {
    return connection->may_join &&
           text.find(connection->has_joined ? "\"rejoin-board\"" : "\"rejoin-") !=
               std::string::npos &&
           config_.access.MayJoin(connection->peer()) && !closer_.full();
}

Refusal Server::Handle(Connection *connection, const json &request, int fd, bool *fatal) {
    std::string op;
    *fatal = true;
    if (!gang::GetString(request, "op", &op)) {
        return {"protocol", "a message is one JSON object with an 'op'"};
    }
    if (op == "hello") {
        return Hello(connection, request);
    }
    if (!connection->greeted) {
        return {"protocol", "'hello' comes first"};
    }
    if (op == "join-source" || op == "join-destination" || op == "rejoin-source" ||
        op == "rejoin-destination") {
        return Join(connection, op, request, fd);
    }
    *fatal = false;
    if (op == "rejoin-board") {
        // Who is refused goes on with its board, and is a member all the same.
        if (Refusal refusal = coordinator_.RejoinBoard(connection, request, fd)) {
            spdlog::warn("a board that was handed back is not used: {}", refusal.text);
        }
        connection->Send({{"op", "rejoined"}}, -1);
        return {};
    }
    if (op == "scanned") {
        return coordinator_.Scanned(connection);
    }
    if (op == "leave") {
        Refusal refusal = coordinator_.Leave(connection, request);
        connection->has_left |= !refusal;
        return refusal;
    }
    if (op == "set") {
        if (!config_.access.MayJoin(connection->peer())) {
            return {"denied", "user " + std::to_string(connection->uid()) +
                                  " may set nothing: ask as root, or as the user of the gang"};
        }
        if (Refusal refusal = coordinator_.Set(*connection, request, NowMs())) {
            return refusal;
        }
        connection->Send({{"op", "set"}}, -1);
        return {};
    }
    if (op == "status") {
        if (!config_.access.MayWatch(connection->peer())) {
            return {"denied", "user " + std::to_string(connection->uid()) +
                                  " may not see the status: ask as root, or add it with "
                                  "allow-operator in gangd's configuration"};
        }
        std::string after;
        gang::GetString(request, "after", &after);
        json page = coordinator_.Status(after);
        if (after.empty()) {
            page["kept"] = coordinator_.KeptStatus();
        }
        page["op"] = "status";
        page["gangd"] = GANG_VERSION;
        page["pid"] = getpid();
        page["store-size"] = config_.limits.store_bytes;
        page["memory-available"] = MemoryAvailable();
        connection->Send(page, -1);
        return {};
    }
    if (op == "forget") {
        if (!config_.access.MayWatch(connection->peer())) {
            return {"denied", "user " + std::to_string(connection->uid()) +
                                  " may drop nothing here: ask as root, or add it with "
                                  "allow-operator in gangd's configuration"};
        }
        std::string id;
        gang::GetString(request, "gang", &id);
        const size_t dropped = coordinator_.Forget(id);
        connection->Send({{"op", "forgotten"}, {"stores", dropped}}, -1);
        return {};
    }
    return {"protocol", "unknown op"};
}

void Server::OnMessage(Connection *connection, const std::string &text, int fd) {
    json request;
    Refusal refusal;
    bool fatal = true;
    if (!gang::ParseMessage(text, &request)) {
        refusal = {"protocol", "a message is one JSON object with an 'op'"};
    } else {
        refusal = Handle(connection, request, fd, &fatal);
    }
    closer_.Close(fd);
    if (refusal) {
        connection->Refuse(refusal);
        if (fatal) {
            connection->Drop();
        }
    }
    ArmTick();
    Announce();
}

void Server::OnDropped(Connection *) {
    if (!reap_source_) {
        reap_source_ = g_idle_add_full(
            G_PRIORITY_DEFAULT,
            [](void *opaque) -> gboolean {
                auto *self = static_cast<Server *>(opaque);
                self->reap_source_ = 0;
                self->Reap();
                return G_SOURCE_REMOVE;
            },
            this, nullptr);
    }
}

void Server::Reap() {
    // The coordinator first, for all of them: what it then sends may drop more,
    // which the next turn reaps.
    std::map<Connection *, std::unique_ptr<Connection>> gone;
    for (auto it = connections_.begin(); it != connections_.end();) {
        auto next = std::next(it);
        if (it->second->dropped()) {
            gone.insert(connections_.extract(it));
        }
        it = next;
    }
    for (const auto &[connection, owned] : gone) {
        coordinator_.HungUp(connection);
    }
    ArmTick();
    Announce();
}

void Server::ArmTick() {
    if (!tick_source_ && coordinator_.needs_tick()) {
        tick_source_ = g_timeout_add(
            kTickMs,
            [](void *opaque) -> gboolean {
                auto *self = static_cast<Server *>(opaque);
                self->coordinator_.Tick(NowMs());
                if (self->coordinator_.needs_tick()) {
                    return G_SOURCE_CONTINUE;
                }
                self->tick_source_ = 0;
                return G_SOURCE_REMOVE;
            },
            this);
    }
}

void Server::Announce() {
    std::string text = coordinator_.gang_count() == 0
                           ? "STATUS=Waiting for members"
                           : "STATUS=Coordinating " + std::to_string(coordinator_.gang_count()) +
                                 " gangs with " + std::to_string(coordinator_.member_count()) +
                                 " members";
    if (text != announced_) {
        announced_ = text;
        if (notifier_) {
            notifier_->Say(text);
        }
    }
}

} // namespace gangd
