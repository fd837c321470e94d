// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A very small HTTP server: see metrics_server.h.

#include "metrics_server.h"

#include <arpa/inet.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include <spdlog/spdlog.h>

namespace gangd {

using gang::Code;
using gang::Status;

namespace {

constexpr unsigned kAcceptPauseMs = 200;

int MakeSocket(int family) {
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

// A socket that nobody serves; anything else at the path stays.
void RemoveStale(const std::string &path, const sockaddr_un &address) {
    struct stat st;
    int probe = MakeSocket(AF_UNIX);
    if (probe < 0) {
        return;
    }
    if (lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode) &&
        connect(probe, reinterpret_cast<const sockaddr *>(&address), sizeof(address)) != 0 &&
        errno == ECONNREFUSED) {
        unlink(path.c_str());
    }
    close(probe);
}

} // namespace

Status MetricsServer::ListenUnix(const std::string &path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        return {Code::kInvalid, "--metrics: a socket's path has at most " +
                                    std::to_string(sizeof(address.sun_path) - 1) + " bytes"};
    }
    memcpy(address.sun_path, path.data(), path.size());
    RemoveStale(path, address);
    fd_ = MakeSocket(AF_UNIX);
    struct stat st;
    // For the user and the group that gangd runs as; others by an administrator's chmod.
    const mode_t mask = umask(0117);
    const bool bound =
        fd_ >= 0 && bind(fd_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) == 0;
    const int error = errno;
    umask(mask);
    if (!bound) {
        return Status::System("cannot listen for metrics at " + path, error);
    }
    if (lstat(path.c_str(), &st) == 0) {
        made_ = path;
        device_ = st.st_dev;
        inode_ = st.st_ino;
    }
    return Status::Ok();
}

Status MetricsServer::ListenTcp(const std::string &text) {
    const Status wrong = {Code::kInvalid,
                          "--metrics needs the path of a socket, 127.0.0.1:PORT or [::1]:PORT, "
                          "not '" +
                              text + "'"};
    const size_t colon = text.rfind(':');
    if (colon == std::string::npos) {
        return wrong;
    }
    const std::string host = text.substr(0, colon);
    uint16_t port = 0;
    const char *end = text.data() + text.size();
    if (auto [at, error] = std::from_chars(text.data() + colon + 1, end, port);
        error != std::errc() || at != end || port == 0) {
        return wrong;
    }
    sockaddr_in v4 = {};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockaddr_in6 v6 = {};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    v6.sin6_addr = in6addr_loopback;
    const bool six = host == "[::1]";
    if (!six && host != "127.0.0.1" && host != "localhost") {
        return wrong; // what is not of this host is nobody else's business
    }
    const int on = 1;
    fd_ = MakeSocket(six ? AF_INET6 : AF_INET);
    if (fd_ < 0 || setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(fd_, six ? reinterpret_cast<sockaddr *>(&v6) : reinterpret_cast<sockaddr *>(&v4),
             six ? sizeof(v6) : sizeof(v4)) != 0) {
        return Status::System("cannot listen for metrics at " + text, errno);
    }
    return Status::Ok();
}

Status MetricsServer::Listen(const std::string &address) {
    Status status =
        address.find('/') != std::string::npos ? ListenUnix(address) : ListenTcp(address);
    if (status.ok() && listen(fd_, static_cast<int>(kMost)) != 0) {
        status = Status::System("cannot listen for metrics at " + address, errno);
    }
    if (status.ok()) {
        Watch();
    }
    return status;
}

void MetricsServer::Watch() {
    watch_ = g_unix_fd_add(
        fd_, G_IO_IN,
        [](int, GIOCondition, void *self) -> gboolean {
            static_cast<MetricsServer *>(self)->Accept();
            return G_SOURCE_CONTINUE; // removed by Accept() if need be
        },
        this);
}

Status MetricsServer::Open(const std::string &address, std::function<std::string()> text,
                           std::unique_ptr<MetricsServer> *out) {
    std::unique_ptr<MetricsServer> server(new MetricsServer());
    server->text_ = std::move(text);
    Status status = server->Listen(address);
    if (status.ok()) {
        *out = std::move(server);
    }
    return status;
}

MetricsServer::~MetricsServer() {
    while (!clients_.empty()) {
        End(clients_.begin()->first);
    }
    if (watch_) {
        g_source_remove(watch_);
    }
    struct stat st;
    if (!made_.empty() && lstat(made_.c_str(), &st) == 0 && st.st_dev == device_ &&
        st.st_ino == inode_) {
        unlink(made_.c_str());
    }
    if (fd_ >= 0) {
        close(fd_);
    }
}

namespace {

// What a GLib source of one client needs.
struct Place {
    void *server;
    int fd;
};

void FreePlace(void *place) {
    delete static_cast<Place *>(place);
}

} // namespace

void MetricsServer::Accept() {
    int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            // As in Server::AcceptOne(): it stays in the backlog, and the processor is
            // the members' meanwhile.
            spdlog::error("cannot accept a connection for metrics: {}", strerror(errno));
            g_source_remove(watch_);
            watch_ = g_timeout_add(
                kAcceptPauseMs,
                [](void *self) -> gboolean {
                    static_cast<MetricsServer *>(self)->Watch();
                    return G_SOURCE_REMOVE;
                },
                this);
        }
        return;
    }
    if (clients_.size() >= kMost) {
        close(fd);
        return;
    }
    Client &client = clients_[fd];
    client.timer = g_timeout_add_full(
        G_PRIORITY_DEFAULT, kMostMs,
        [](void *opaque) -> gboolean {
            auto *place = static_cast<Place *>(opaque);
            auto *self = static_cast<MetricsServer *>(place->server);
            self->clients_[place->fd].timer = 0; // this source ends by its answer
            self->End(place->fd);
            return G_SOURCE_REMOVE;
        },
        new Place{this, fd}, FreePlace);
    client.watch = g_unix_fd_add_full(
        G_PRIORITY_DEFAULT, fd, static_cast<GIOCondition>(G_IO_IN),
        [](int at, GIOCondition, void *opaque) -> gboolean {
            auto *self = static_cast<MetricsServer *>(static_cast<Place *>(opaque)->server);
            Client *found = &self->clients_[at];
            if (self->Read(at, found)) {
                return G_SOURCE_CONTINUE;
            }
            if (found->answer.empty()) {
                found->watch = 0; // this source ends by its answer
                self->End(at);
            }
            return G_SOURCE_REMOVE;
        },
        new Place{this, fd}, FreePlace);
}

// Until the request's empty line; then the answer goes out.
bool MetricsServer::Read(int fd, Client *client) {
    char bytes[2048];
    ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n <= 0 || client->request.size() + static_cast<size_t>(n) > kMostRequest) {
        return false;
    }
    client->request.append(bytes, static_cast<size_t>(n));
    if (client->request.find("\r\n\r\n") == std::string::npos &&
        client->request.find("\n\n") == std::string::npos) {
        return true;
    }
    // Whoever asks without pause does not keep the main loop busy.
    const int64_t now = g_get_monotonic_time();
    if (body_.empty() || now - made_us_ > kFreshUs) {
        body_ = text_();
        made_us_ = now;
    }
    const std::string &body = body_;
    client->answer = "HTTP/1.0 200 OK\r\n"
                     "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                     "Content-Length: " +
                     std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" + body;
    client->watch = g_unix_fd_add_full(
        G_PRIORITY_DEFAULT, fd, static_cast<GIOCondition>(G_IO_OUT | G_IO_HUP | G_IO_ERR),
        [](int at, GIOCondition, void *opaque) -> gboolean {
            auto *self = static_cast<MetricsServer *>(static_cast<Place *>(opaque)->server);
            Client *found = &self->clients_[at];
            if (self->Write(at, found)) {
                return G_SOURCE_CONTINUE;
            }
            found->watch = 0;
            self->End(at);
            return G_SOURCE_REMOVE;
        },
        new Place{this, fd}, FreePlace);
    return false;
}

bool MetricsServer::Write(int fd, Client *client) {
    ssize_t n = send(fd, client->answer.data() + client->sent, client->answer.size() - client->sent,
                     MSG_NOSIGNAL);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    client->sent += static_cast<size_t>(n);
    if (client->sent < client->answer.size()) {
        return true;
    }
    shutdown(fd, SHUT_WR);
    return false;
}

void MetricsServer::End(int fd) {
    auto at = clients_.find(fd);
    if (at == clients_.end()) {
        return;
    }
    for (unsigned source : {at->second.watch, at->second.timer}) {
        if (source) {
            g_source_remove(source);
        }
    }
    clients_.erase(at);
    close(fd);
}

} // namespace gangd
