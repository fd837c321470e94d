// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Lets clients in and carries their requests to the coordinator.

#ifndef GANGD_SERVER_H
#define GANGD_SERVER_H

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "access.h"
#include "closer.h"
#include "connection.h"
#include "coordinator.h"
#include "listener.h"
#include "metrics_server.h"
#include "notifier.h"
#include "wiper.h"

namespace gangd {

struct ServerConfig {
    Access access;
    // Connections: of all, of one user who is not root, and of one process, so
    // that none of them takes what the others need.
    size_t max_clients = 1024;
    size_t max_user_clients = SIZE_MAX;
    size_t max_process_clients = SIZE_MAX;
    unsigned max_requests = 1000; // of one client in a second
    unsigned hello_ms = 10000;    // that a client has to say hello
    unsigned idle_ms = 300000;    // without a request of one that is no member, or has left
    Limits limits;
};

// Runs on GLib's default main context.
class Server : public Connection::Owner {
  public:
    // Serves from the main loop's next turn on.  `notifier` may be nullptr.
    Server(const ServerConfig &config, std::unique_ptr<Listener> listener,
           Notifier *notifier = nullptr);
    // Closes all connections, then the listener.
    ~Server() override;
    gang::Status ServeMetrics(const std::string &address);

  private:
    void OnMessage(Connection *connection, const std::string &text, int fd) override;
    bool TakesDescriptor(Connection *connection, const std::string &text) override;
    void OnUnread(int fd) override { closer_.Close(fd); }
    void OnDropped(Connection *connection) override;

    void Watch();
    void Accept();
    // False: there is nobody to let in for now.
    bool AcceptOne();
    Refusal Admit(const PeerIdentity &peer) const;
    Refusal Hello(Connection *connection, const nlohmann::json &request);
    // *fatal: a refusal ends the connection.
    // `fd` stays the caller's.
    Refusal Handle(Connection *connection, const nlohmann::json &request, int fd, bool *fatal);
    Refusal Join(Connection *connection, const std::string &op, const nlohmann::json &request,
                 int fd);
    void ArmTick();
    void Reap();
    void Announce(); // to the service manager
    uint64_t MemoryAvailable() const; // of this host, in bytes; 0: not known

    ServerConfig config_;
    std::unique_ptr<Listener> listener_;
    Notifier *const notifier_;
    Closer closer_;
    Wiper wiper_;
    Coordinator coordinator_;
    std::map<Connection *, std::unique_ptr<Connection>> connections_;
    std::unique_ptr<MetricsServer> metrics_;
    int meminfo_ = -1; // opened while files may still be opened
    std::string announced_;
    unsigned listen_source_ = 0;
    unsigned tick_source_ = 0;
    unsigned reap_source_ = 0;
};

} // namespace gangd

#endif
