// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The client's end of the coordinator's socket: see control.h.

#include "control.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control_message.h"
#include "descriptor.h"

namespace gang {

using nlohmann::json;

namespace {

// A point in time after which a call must have returned.
class Deadline {
  public:
    explicit Deadline(int timeout_ms)
        : end_(Clock::now() + std::chrono::milliseconds(std::max(timeout_ms, 0))) {}
    int LeftMs() const {
        auto left = std::chrono::ceil<std::chrono::milliseconds>(end_ - Clock::now()).count();
        return static_cast<int>(std::max<decltype(left)>(left, 0));
    }

  private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point end_;
};

enum class Wait {
    kReady,
    kTimeout,
    kFailed
};

Wait WaitFor(int fd, short events, const Deadline &deadline) {
    for (;;) {
        pollfd entry = {.fd = fd, .events = events, .revents = 0};
        int left = deadline.LeftMs();
        int n = poll(&entry, 1, left);
        if (n > 0) {
            return Wait::kReady;
        }
        if (n < 0 && errno != EINTR) {
            return Wait::kFailed;
        }
        if (left == 0) {
            return Wait::kTimeout;
        }
    }
}

Status NoCoordinator(const std::string &path, const std::string &why) {
    return {Code::kUnavailable, "no coordinator at " + path + " (" + why +
                                    "): start gangd on this host (systemctl start gangd.socket) "
                                    "or set gang-socket"};
}

// What gangd's "code" is among ours.
Code FromWire(const std::string &code) {
    if (code == "incompatible") {
        return Code::kIncompatible;
    }
    if (code == "denied") {
        return Code::kUnavailable;
    }
    if (code == "limit") {
        return Code::kExhausted;
    }
    return code == "internal" ? Code::kSystem : Code::kInvalid;
}

const char *ResultName(LeaveResult result) {
    switch (result) {
    case LeaveResult::kCompleted:
        return "completed";
    case LeaveResult::kCancelled:
        return "cancelled";
    case LeaveResult::kFailed:
        break;
    }
    return "failed";
}

} // namespace

Status ControlClient::Connect(const std::string &path, int timeout_ms,
                              std::unique_ptr<ControlClient> *out) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address.sun_path) ||
        path.find('\0') != std::string::npos) {
        return {Code::kInvalid, "'" + path +
                                    "' cannot be a unix socket's path: it must have 1 to " +
                                    std::to_string(sizeof(address.sun_path) - 1) + " characters"};
    }
    memcpy(address.sun_path, path.data(), path.size());

    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return Status::System("cannot make a unix socket", errno);
    }
    std::unique_ptr<ControlClient> client(new ControlClient(fd, path));
    Deadline deadline(timeout_ms);
    while (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0) {
        int err = errno;
        if (err == EINTR) {
            continue;
        }
        // EAGAIN: the listener's backlog is full; there is nothing to poll for.
        if (err != EAGAIN) {
            return NoCoordinator(path, strerror(err));
        }
        int left = deadline.LeftMs();
        if (left == 0) {
            return {Code::kUnavailable, "the coordinator at " + path +
                                            " accepts no connection: see its log "
                                            "(journalctl -u gangd)"};
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(std::min(left, 10)));
    }
    *out = std::move(client);
    return Status::Ok();
}

ControlClient::~ControlClient() {
    close(fd_);
}

Received ControlClient::Fail(Received outcome, Code code, const std::string &what) {
    last_error_ = Status(code, "coordinator at " + path_ + ": " + what);
    gone_ = gone_ || outcome == Received::kHangup;
    return outcome;
}

Status ControlClient::Send(const json &message, int timeout_ms, int descriptor) {
    std::string text = DumpMessage(message);
    if (text.size() > kMaxControlMessage) {
        return {Code::kInvalid, "a message of " + std::to_string(text.size()) +
                                    " bytes is too long for the coordinator"};
    }
    Deadline deadline(timeout_ms);
    for (;;) {
        ssize_t n = SendWithDescriptor(fd_, text.data(), text.size(), descriptor);
        if (n >= 0) {
            return Status::Ok();
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            gone_ = true;
            return {Code::kUnavailable,
                    "the coordinator at " + path_ + " went away: " + strerror(errno)};
        }
        if (WaitFor(fd_, POLLOUT, deadline) != Wait::kReady) {
            return Unanswered("does not read its socket");
        }
    }
}

Received ControlClient::Receive(json *message, int *fd, int timeout_ms) {
    if (fd) {
        *fd = -1;
    }
    Deadline deadline(timeout_ms);
    // One byte more than a message may have shows one that has too many.
    std::string text(kMaxControlMessage + 1, '\0');
    constexpr size_t kFds = 8;
    alignas(cmsghdr) char control[CMSG_SPACE(kFds * sizeof(int))];
    iovec part = {.iov_base = text.data(), .iov_len = text.size()};
    msghdr header = {};
    ssize_t n;
    bool reset = false;
    for (;;) {
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        n = recvmsg(fd_, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n >= 0) {
            break;
        }
        if (errno == EINTR) {
            continue;
        }
        // A peer that closed before it read all we sent shows as a reset first,
        // and only then gives what it had to say.
        if (errno == ECONNRESET && !reset) {
            reset = true;
            continue;
        }
        if (errno != EAGAIN) {
            return Fail(Received::kHangup, Code::kUnavailable,
                        std::string("went away: ") + strerror(errno));
        }
        switch (WaitFor(fd_, POLLIN, deadline)) {
        case Wait::kReady:
            continue;
        case Wait::kTimeout:
            return Received::kTimeout;
        case Wait::kFailed:
            return Fail(Received::kHangup, Code::kUnavailable,
                        std::string("cannot wait for it: ") + strerror(errno));
        }
    }

    int fds[kFds];
    size_t fd_count = 0;
    for (cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int received;
            memcpy(&received, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (fd_count < kFds) {
                fds[fd_count++] = received;
            } else {
                close(received);
            }
        }
    }
    auto close_all = [&] {
        for (size_t i = 0; i < fd_count; i++) {
            close(fds[i]);
        }
    };

    if (n == 0 && fd_count == 0) {
        return Fail(Received::kHangup, Code::kUnavailable, "went away (it closed the connection)");
    }
    if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || fd_count > 1 ||
        static_cast<size_t>(n) > kMaxControlMessage) {
        close_all();
        return Fail(Received::kError, Code::kInvalid,
                    "its message is too long or has too many descriptors");
    }
    if (!ParseMessage(std::string_view(text.data(), static_cast<size_t>(n)), message)) {
        close_all();
        return Fail(Received::kError, Code::kInvalid, "its message is not a JSON object");
    }
    if (fd && fd_count == 1) {
        *fd = fds[0];
    } else {
        close_all();
    }
    return Received::kMessage;
}

Status ControlClient::Unanswered(const char *what) const {
    return {Code::kUnavailable, "the coordinator at " + path_ + " " + what +
                                    ": see whether it is stopped or overloaded "
                                    "(journalctl -u gangd)"};
}

Status ControlClient::Expect(const char *op, json *message, int *fd, bool *ready, int timeout_ms,
                             const char *or_op) {
    *ready = false;
    if (hello_said_ && strcmp(op, "hello") != 0) {
        bool greeted = false;
        Status status = Expect("hello", message, nullptr, &greeted, timeout_ms);
        if (!greeted) {
            return status;
        }
        timeout_ms = 0;
    }
    switch (Receive(message, fd, timeout_ms)) {
    case Received::kTimeout:
        return Status::Ok();
    case Received::kHangup:
    case Received::kError:
        return last_error_;
    case Received::kMessage:
        break;
    }
    std::string text;
    Status status;
    if (GetString(*message, "error", &text)) {
        std::string code;
        GetString(*message, "code", &code);
        status = Status(FromWire(code), "coordinator at " + path_ + ": " + text);
    } else if (!GetString(*message, "op", &text) || (text != op && (!or_op || text != or_op))) {
        status = Status(Code::kInvalid,
                        "coordinator at " + path_ + ": sent no '" + op + "' when it was due");
    } else {
        hello_said_ = hello_said_ && text != "hello";
        *ready = true;
        return status;
    }
    if (fd && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

Status ControlClient::SendHello(const std::string &client, bool member, int timeout_ms) {
    json request = {{"op", "hello"}, {"version", kControlVersion}, {"client", client}};
    if (member) {
        request["layout"] = LayoutText(LayoutSignature());
    }
    hello_said_ = true;
    return Send(request, timeout_ms);
}

Status ControlClient::Hello(const std::string &client, bool member, int timeout_ms) {
    const std::string layout = LayoutText(LayoutSignature());
    Deadline deadline(timeout_ms);
    Status sent = SendHello(client, member, timeout_ms);
    // A coordinator that denies us may have closed before it read our hello: its
    // reason is still to be read.
    json answer;
    bool ready = false;
    if (Status status = Expect("hello", &answer, nullptr, &ready, deadline.LeftMs());
        !status.ok()) {
        return status;
    }
    if (!sent.ok()) {
        return sent;
    }
    if (!ready) {
        return Unanswered("does not answer");
    }
    uint64_t version = 0;
    if (!GetUint(answer, "version", UINT32_MAX, &version) || version != kControlVersion) {
        return {Code::kIncompatible, "the coordinator at " + path_ +
                                         " speaks another version of the control protocol: "
                                         "install gangd and QEMU of the same release"};
    }
    std::string theirs;
    if (member && (!GetString(answer, "layout", &theirs) || theirs != layout)) {
        return {Code::kIncompatible, "the coordinator at " + path_ +
                                         " lays out shared memory differently: install "
                                         "gangd and QEMU of the same release"};
    }
    return Status::Ok();
}

json SourceJoinMessage(const SourceJoin &join) {
    const char *hash = HashKindName(join.hash_kind);
    json message = {{"op", "join-source"},
                    {"gang", join.gang},
                    {"member", join.member},
                    {"members", join.members},
                    {"pid", static_cast<uint32_t>(getpid())},
                    {"store", ToHex(join.store)},
                    {"seed", ToHex(join.seed)},
                    {"hash", hash ? hash : "unknown"},
                    {"slots", join.slots},
                    {"filled", join.filled},
                    {"page-size", kPageSize},
                    {"ram-pages", join.ram_pages},
                    {"channels", join.channels},
                    {"board", true}};
    if (join.policy) {
        message["policy"] = join.policy;
    }
    return message;
}

Status ControlClient::JoinSource(const SourceJoin &join, int timeout_ms) {
    return Send(SourceJoinMessage(join), timeout_ms);
}

Status ControlClient::PollDirectory(DirectoryGrant *grant, bool *ready, int timeout_ms) {
    Deadline deadline(timeout_ms);
    json answer;
    int fd = -1;
    Status status = Expect("directory", &answer, &fd, ready, timeout_ms,
                           grant->board_fd < 0 ? "board" : nullptr);
    if (!status.ok() || !*ready) {
        return status;
    }
    uint64_t index = 0;
    if (answer["op"] == "board") {
        *ready = false;
        if (fd < 0 || !GetUint(answer, "index", kMaxMembers - 1, &index)) {
            if (fd >= 0) {
                close(fd);
            }
            return {Code::kInvalid, "coordinator at " + path_ + ": its board message is not valid"};
        }
        grant->board_fd = fd;
        grant->board_index = static_cast<uint32_t>(index);
        return PollDirectory(grant, ready, deadline.LeftMs()); // a second board is refused
    }
    uint64_t joined = 0;
    uint64_t missing = 0;
    if (fd < 0 || !GetUint(answer, "index", kMaxMembers - 1, &index) ||
        !GetUint(answer, "joined", kMaxMembers, &joined) ||
        !GetUint(answer, "missing", kMaxMembers, &missing)) {
        if (fd >= 0) {
            close(fd);
        }
        *ready = false;
        return {Code::kInvalid, "coordinator at " + path_ + ": its directory message is not valid"};
    }
    grant->fd = fd;
    grant->index = static_cast<uint32_t>(index);
    grant->joined = static_cast<uint32_t>(joined);
    grant->missing = static_cast<uint32_t>(missing);
    grant->absent.clear();
    GetString(answer, "absent", &grant->absent);
    return status;
}

Status ControlClient::Scanned(int timeout_ms) {
    return Send({{"op", "scanned"}}, timeout_ms);
}

Status ControlClient::PollStart(bool *ready, int timeout_ms) {
    json answer;
    return Expect("start", &answer, nullptr, ready, timeout_ms);
}

Status ControlClient::JoinDestination(const std::string &gang, const std::string &member,
                                      StoreGrant *grant, int timeout_ms, HashKind hash_kind) {
    Deadline deadline(timeout_ms);
    json request = {{"op", "join-destination"},
                    {"gang", gang},
                    {"member", member},
                    {"pid", static_cast<uint32_t>(getpid())},
                    {"page-size", kPageSize}};
    if (const char *hash = HashKindName(hash_kind)) {
        request["hash"] = hash;
    }
    Status status = Send(request, timeout_ms);
    if (!status.ok()) {
        return status;
    }
    json answer;
    int fd = -1;
    bool ready = false;
    status = Expect("store", &answer, &fd, &ready, deadline.LeftMs());
    if (!status.ok()) {
        return status;
    }
    if (!ready) {
        return Unanswered("does not answer");
    }
    uint64_t slots = 0;
    if (fd < 0 || !GetUint(answer, "slots", UINT32_MAX, &slots)) {
        if (fd >= 0) {
            close(fd);
        }
        return {Code::kInvalid, "coordinator at " + path_ + ": its store message is not valid"};
    }
    grant->fd = fd;
    grant->slots = slots;
    return Status::Ok();
}

Status ControlClient::Leave(LeaveResult result) {
    return Send({{"op", "leave"}, {"result", ResultName(result)}}, 0);
}

Status ControlClient::SetOrder(const std::string &gang, const GangOrder &order, int timeout_ms) {
    Deadline deadline(timeout_ms);
    json request = {{"op", "set"}, {"gang", gang}};
    if (order.max_bandwidth) {
        request["max-bandwidth"] = *order.max_bandwidth;
    }
    if (order.bulk_members) {
        request["bulk-members"] = *order.bulk_members;
    }
    if (order.turn_ms) {
        request["turn-limit"] = *order.turn_ms;
    }
    if (!order.expect.empty()) {
        request["expect"] = order.expect;
    }
    Status status = Send(request, timeout_ms);
    json answer;
    bool ready = false;
    if (status.ok()) {
        status = Expect("set", &answer, nullptr, &ready, deadline.LeftMs());
    }
    return status.ok() && !ready ? Unanswered("does not answer") : status;
}

Status ControlClient::Forget(const std::string &gang, uint64_t *stores, int timeout_ms) {
    Deadline deadline(timeout_ms);
    json request = {{"op", "forget"}}, answer;
    if (!gang.empty()) {
        request["gang"] = gang;
    }
    Status status = Send(request, deadline.LeftMs());
    bool ready = false;
    if (status.ok()) {
        status = Expect("forgotten", &answer, nullptr, &ready, deadline.LeftMs());
    }
    if (status.ok() && (!ready || !GetUint(answer, "stores", UINT64_MAX, stores))) {
        return Unanswered("does not answer");
    }
    return status;
}

Status ControlClient::QueryStatus(json *merged, int timeout_ms) {
    Deadline deadline(timeout_ms);
    json all;
    std::string after;
    // gangd pages its status; the bound is far above what its limits allow.
    for (int page = 0; page < 4096; page++) {
        json request = {{"op", "status"}};
        if (page > 0) {
            request["after"] = after;
        }
        Status status = Send(request, deadline.LeftMs());
        if (!status.ok()) {
            return status;
        }
        json answer;
        bool ready = false;
        status = Expect("status", &answer, nullptr, &ready, deadline.LeftMs());
        if (!status.ok()) {
            return status;
        }
        if (!ready) {
            return Unanswered("does not answer");
        }
        bool more = GetString(answer, "next", &after);
        auto gangs = answer.find("gangs");
        if (gangs == answer.end() || !gangs->is_array()) {
            return {Code::kInvalid, "coordinator at " + path_ + ": its status has no gangs"};
        }
        json page_gangs = std::move(*gangs);
        if (page == 0) {
            answer.erase("next");
            answer.erase("op");
            answer["gangs"] = json::array();
            all = std::move(answer);
        }
        json &list = all["gangs"];
        for (json &gang : page_gangs) {
            // A gang too long for one page goes on at the start of the next.
            if (!list.empty() && gang.is_object() && gang.value("continued", json()) == true &&
                gang.contains("members") && gang["members"].is_array() && list.back().is_object() &&
                list.back()["members"].is_array()) {
                for (json &member : gang["members"]) {
                    list.back()["members"].push_back(std::move(member));
                }
            } else {
                list.push_back(std::move(gang));
            }
        }
        if (!more) {
            *merged = std::move(all);
            return Status::Ok();
        }
    }
    return {Code::kInvalid, "coordinator at " + path_ + ": its status does not end"};
}

} // namespace gang
