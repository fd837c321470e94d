// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// QMP over a unix socket.

#include "qmp_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "control_message.h"
#include "descriptor.h"

namespace gangctl {

using gang::Code;
using gang::Status;
using nlohmann::json;

namespace {

constexpr size_t kMaxLine = 16 << 20; // query-commands has some 30 KB
constexpr int kMaxSkipped = 10000;    // events while one answer is waited for

} // namespace

int64_t NowMs() {
    using namespace std::chrono;
    return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

Status QmpClient::Gone(const std::string &why) const {
    return {Code::kUnavailable, "QMP socket " + path_ + ": " + why};
}

QmpClient::~QmpClient() {
    close(fd_);
}

Status QmpClient::Connect(const std::string &path, int timeout_ms,
                          std::unique_ptr<QmpClient> *out) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address.sun_path) ||
        path.find('\0') != std::string::npos) {
        return {Code::kInvalid, "QMP socket '" + path + "': a path has 1 to 107 bytes"};
    }
    memcpy(address.sun_path, path.data(), path.size());
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return Status::System("cannot make a unix socket", errno);
    }
    std::unique_ptr<QmpClient> client(new QmpClient(fd, path));
    int64_t deadline = NowMs() + timeout_ms;
    while (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0) {
        if (errno == EINTR) {
            continue;
        }
        // EAGAIN: the backlog is full, as others wait for this monitor already.
        if (errno != EAGAIN) {
            return client->Gone(std::string(strerror(errno)) +
                                ": is this QEMU running, with -qmp unix:PATH,server=on,wait=off?");
        }
        if (NowMs() >= deadline) {
            break;
        }
        usleep(10000);
    }
    std::string line;
    bool ready = false;
    Status status = client->ReadLine(&line, &ready, deadline);
    if (!status.ok()) {
        return status;
    }
    if (!ready) {
        return client->Gone("no greeting: a monitor serves one client at a time; end the one that "
                            "holds it, or give QEMU a second -qmp socket");
    }
    json greeting = json::parse(line, nullptr, false);
    if (!greeting.is_object() || !greeting.contains("QMP") || !greeting["QMP"].is_object()) {
        return client->Gone("what listens there is no QMP monitor");
    }
    uint64_t major = 0, minor = 0, micro = 0;
    json version = greeting["QMP"].value(json::json_pointer("/version/qemu"), json::object());
    if (gang::GetUint(version, "major", 9999, &major) &&
        gang::GetUint(version, "minor", 9999, &minor) &&
        gang::GetUint(version, "micro", 9999, &micro)) {
        client->version_ = std::to_string(major) + "." + std::to_string(minor) + "." +
                           std::to_string(micro);
    }
    json ignored;
    status = client->Execute("qmp_capabilities", json::object(), &ignored,
                             static_cast<int>(std::max<int64_t>(deadline - NowMs(), 100)));
    if (status.ok()) {
        *out = std::move(client);
    }
    return status;
}

Status QmpClient::ReadLine(std::string *line, bool *ready, int64_t deadline_ms) {
    *ready = false;
    size_t searched = 0;
    for (;;) {
        size_t end = buffer_.find('\n', searched);
        if (end != std::string::npos) {
            line->assign(buffer_, 0, end);
            buffer_.erase(0, end + 1);
            *ready = true;
            return Status::Ok();
        }
        searched = buffer_.size();
        if (buffer_.size() > kMaxLine) {
            return Gone("its answer is too long");
        }
        char bytes[16384];
        ssize_t n = recv(fd_, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n > 0) {
            buffer_.append(bytes, static_cast<size_t>(n));
            continue;
        }
        if (n == 0) {
            return Gone("QEMU closed it, or ended");
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            return Gone(strerror(errno));
        }
        int64_t left = deadline_ms - NowMs();
        if (left <= 0) {
            return Status::Ok();
        }
        pollfd entry = {.fd = fd_, .events = POLLIN, .revents = 0};
        if (poll(&entry, 1, static_cast<int>(left)) < 0 && errno != EINTR) {
            return Gone(strerror(errno));
        }
    }
}

Status QmpClient::Send(const std::string &command, const json &arguments) {
    return SendCommand(command, arguments, -1);
}

Status QmpClient::PassFd(const std::string &name, int fd) {
    Status status = SendCommand("getfd", {{"fdname", name}}, fd);
    json ignored;
    bool ready = false;
    if (status.ok()) {
        status = Receive(&ignored, &ready, kTimeoutMs);
    }
    return status.ok() && !ready ? Gone("no answer to getfd") : status;
}

Status QmpClient::SendCommand(const std::string &command, const json &arguments, int pass) {
    json request = {{"execute", command}, {"id", ++id_}};
    if (arguments.is_object() && !arguments.empty()) {
        request["arguments"] = arguments;
    }
    command_ = command;
    std::string text = request.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    size_t sent = 0;
    int64_t deadline = NowMs() + kTimeoutMs;
    while (sent < text.size()) {
        ssize_t n = gang::SendWithDescriptor(fd_, text.data() + sent, text.size() - sent,
                                             sent == 0 ? pass : -1);
        if (n >= 0) {
            sent += static_cast<size_t>(n);
        } else if (errno == EAGAIN) {
            pollfd entry = {.fd = fd_, .events = POLLOUT, .revents = 0};
            if (NowMs() >= deadline) {
                return Gone("QEMU does not read its monitor");
            }
            poll(&entry, 1, 100);
        } else if (errno != EINTR) {
            return Gone(strerror(errno));
        }
    }
    return Status::Ok();
}

Status QmpClient::Receive(json *result, bool *ready, int timeout_ms) {
    int64_t deadline = NowMs() + timeout_ms;
    for (int skipped = 0; skipped < kMaxSkipped; skipped++) {
        std::string line;
        Status status = ReadLine(&line, ready, deadline);
        if (!status.ok() || !*ready) {
            return status;
        }
        *ready = false;
        json message = json::parse(line, nullptr, false);
        if (!message.is_object()) {
            return Gone("what it says is not JSON");
        }
        auto id = message.find("id");
        if (id == message.end() || *id != id_) {
            continue; // an event, or the answer to a command nobody waits for any more
        }
        *ready = true;
        auto error = message.find("error");
        if (error == message.end()) {
            *result = message.value("return", json());
            return status;
        }
        std::string why = "unknown error";
        if (error->is_object() && error->contains("desc") && (*error)["desc"].is_string()) {
            why = (*error)["desc"];
        }
        return {Code::kInvalid, command_ + ": " + why};
    }
    return Gone("only events, no answer");
}

Status QmpClient::Execute(const std::string &command, const json &arguments, json *result,
                          int timeout_ms) {
    Status status = Send(command, arguments);
    bool ready = false;
    if (status.ok()) {
        status = Receive(result, &ready, timeout_ms);
    }
    if (status.ok() && !ready) {
        return Gone("no answer to " + command);
    }
    return status;
}

} // namespace gangctl
