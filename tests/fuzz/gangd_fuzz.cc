// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gangd's socket with hostile clients at it, and its policy with a clock that
// jumps: whatever they say, what clients get is messages of the protocol, others
// are served, and when all have gone no gang and no descriptor is left.
//
// First byte, bit 0: the coordinator alone, with a clock; else the server with its
// socket.  Then operations of one byte and their operands; see the switches.

#include <fcntl.h>
#include <glib.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <set>
#include <string>

#include "control_message.h"
#include "descriptor.h"
#include "fuzz_store.h"
#include "server.h"

using namespace gang;
using namespace gang::fuzz;
using nlohmann::json;

namespace {

constexpr size_t kClients = 6;

std::string Text(Input *input) {
    const size_t n = input->Length(2);
    return std::string(reinterpret_cast<const char *>(input->Take(n)), n);
}

// A request that could be right, with one of its members changed or missing.
json Request(Input *input) {
    json request;
    const uint64_t what = input->Number(1);
    const std::string gang(1, static_cast<char>('a' + (what >> 4 & 3)));
    const std::string name(1, static_cast<char>('a' + input->Number(1) % kClients));
    switch (what % 6) {
    case 0:
        request = {{"op", "hello"}, {"version", 1}, {"layout", LayoutText(LayoutSignature())}};
        break;
    case 1:
        request = {{"op", "join-source"},
                   {"gang", gang},
                   {"member", name},
                   {"members", 1 + input->Number(1) % 3},
                   {"store", std::string(32, static_cast<char>('a' + input->Number(1) % 2))},
                   {"seed", std::string(32, '5')},
                   {"hash", HashKindName(KindOf(what >> 5))},
                   {"slots", 128},
                   {"page-size", 4096},
                   {"ram-pages", 64},
                   {"channels", 2},
                   {"board", true}};
        if (what & 128) {
            request.update({{"op", "rejoin-source"},
                            {"index", input->Number(1) % 4},
                            {"joined", 2},
                            {"missing", 0}});
        }
        break;
    case 2:
        request = {
            {"op", "join-destination"}, {"gang", gang}, {"member", name}, {"page-size", 4096}};
        if (what & 128) {
            request.update({{"op", "rejoin-destination"}, {"store", std::string(32, 'a')}});
        }
        break;
    case 3:
        request = {{"op", "scanned"}};
        break;
    case 4:
        request = {{"op", "leave"}, {"result", what & 64 ? "completed" : "cancelled"}};
        break;
    case 5:
        if (what & 128) {
            request = {{"op", "set"},
                       {"gang", gang},
                       {"max-bandwidth", input->Number(2)},
                       {"bulk-members", input->Number(1)},
                       {"expect", json::array({name, "b"})}};
        } else {
            request = {{"op", "status"}, {"after", std::to_string(input->Number(1))}};
        }
        break;
    }
    if (const uint64_t change = input->Number(1); change % 8) {
        auto it = request.begin();
        std::advance(it, static_cast<ptrdiff_t>(input->Number(1) % request.size()));
        switch (change % 8) {
        case 1:
            *it = input->Number(8);
            break;
        case 2:
            *it = -static_cast<int64_t>(input->Number(8) & INT64_MAX);
            break;
        case 3:
            *it = Text(input);
            break;
        case 4:
            *it = nullptr;
            break;
        case 5:
            *it = json::array({json::object(), 1.5, true});
            break;
        case 6:
            request.erase(it);
            break;
        case 7:
            request[Text(input)] = 1;
            break;
        }
    }
    return request;
}

gangd::Limits SmallLimits(uint64_t barrier_ms) {
    gangd::Limits limits;
    limits.store_bytes = 2 * gangd::kMinStoreBytes;
    limits.store_total = 3 * gangd::kMinStoreBytes;
    limits.mirror_bytes = 64 * kPageSize;
    limits.barrier_ms = barrier_ms;
    limits.max_gangs = 4;
    limits.max_member_pages = 4096;
    return limits;
}

// ------------------------------------------------------ the coordinator alone

class FakePeer : public gangd::Peer {
  public:
    void Send(const json &message, int fd) override {
        Check(!gone, "nothing is sent to a client that has gone");
        Check(DumpMessage(message).size() <= kMaxControlMessage, "messages fit");
        Check(fd < 0 || fcntl(fd, F_GETFD) >= 0, "descriptors that are sent are open");
    }
    void Drop() override { dropped = true; }
    bool joined = false, dropped = false, gone = false;
};

// What members of another gangd might hand back, with three records that are taken, and
// what a hostile one makes of it.
struct Segments {
    Segments() {
        DirectoryConfig config;
        (void)FromHex(std::string(32, 'a'), &config.store_uuid);
        (void)FromHex(std::string(32, '5'), &config.seed);
        config.gang_pages = 192;
        config.store_slots = 128;
        std::unique_ptr<Directory> made;
        Check(Directory::Create(config, &directory).ok() && Directory::Open(directory, &made).ok() &&
                  Store::Create(64, HashKind::kXxh3_128, &store).ok(),
              "segments can be made");
        for (uint32_t i = 0, index; i < 3; i++) {
            Check(made->AddMember(0, &index).ok(), "records are free");
        }
        (void)!pwrite(store, config.store_uuid.data(), config.store_uuid.size(),
                      offsetof(StoreHeader, uuid));
    }
    ~Segments() {
        close(directory);
        close(store);
    }
    void Scribble(Input *input) {
        const uint64_t where = input->Number(2);
        const size_t n = input->Length(1);
        (void)!pwrite(where & 1 ? directory : store, input->Take(n), n,
                      static_cast<off_t>(where >> 1));
    }
    int directory = -1, store = -1;
};

void Coordinate(Input *input) {
    Segments segments;
    std::array<FakePeer, kClients> peers;
    gangd::Coordinator coordinator(SmallLimits(1000));
    uint64_t now_ms = 1;
    auto hang_up = [&](FakePeer *peer) {
        peer->gone = true;
        coordinator.HungUp(peer);
        *peer = {};
    };
    for (int steps = 0; input->left() && steps < 200; steps++) {
        FakePeer *peer = &peers[input->Number(1) % kClients];
        gangd::Refusal refusal;
        json request;
        std::string op;
        const uint64_t what = input->Number(1);
        switch (what % 4) {
        case 0:
            if (what & 64) {
                segments.Scribble(input);
            } else {
                hang_up(peer);
            }
            break;
        case 1:
            now_ms += input->Number(2);
            coordinator.Tick(now_ms);
            break;
        default: // as Server::Handle() does
            request = Request(input);
            GetString(request, "op", &op);
            if ((op == "join-source" || op == "join-destination") && !peer->joined) {
                peer->joined = true;
                refusal = op == "join-source" ? coordinator.JoinSource(peer, 0, request, now_ms)
                                              : coordinator.JoinDestination(peer, 0, request);
                peer->dropped = peer->dropped || refusal;
            } else if ((op == "rejoin-source" || op == "rejoin-destination") && !peer->joined) {
                peer->joined = true;
                refusal = op == "rejoin-source"
                              ? coordinator.RejoinSource(peer, 0, request, segments.directory)
                              : coordinator.RejoinDestination(peer, 0, request, segments.store);
                peer->dropped = peer->dropped || refusal;
            } else if (op == "scanned") {
                refusal = coordinator.Scanned(peer);
            } else if (op == "leave") {
                refusal = coordinator.Leave(peer, request);
            } else if (op == "set") {
                refusal = coordinator.Set(*peer, request, now_ms);
            } else if (op == "status") {
                std::string after;
                GetString(request, "after", &after);
                Check(DumpMessage(coordinator.Status(after)).size() < kMaxControlMessage - 128,
                      "a page of status fits a message");
            }
            Check(refusal.code.empty() == refusal.text.empty(), "a refusal has a reason");
        }
        for (FakePeer &other : peers) {
            if (other.dropped) {
                hang_up(&other);
            }
        }
        Check(coordinator.gang_count() <= 4, "no more gangs than the limit");
    }
    for (FakePeer &peer : peers) {
        hang_up(&peer);
    }
    Check(coordinator.gang_count() == 0 && coordinator.member_count() == 0,
          "gangs end with their last member");
}

// ------------------------------------------------------------- the whole server

const std::string &SocketPath() {
    static const std::string path = "/tmp/gangd-fuzz-" + std::to_string(getpid());
    return path;
}

// What is to be done, not a thing more: no timer is due meanwhile.
void Turn() {
    for (int i = 0; i < 100 && g_main_context_iteration(nullptr, FALSE); i++) {
    }
}

class Client {
  public:
    ~Client() { Close(); }
    void Connect() {
        Close();
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        strncpy(address.sun_path, SocketPath().c_str(), sizeof(address.sun_path) - 1);
        fd_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (connect(fd_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0) {
            Close(); // the backlog is full
        }
    }
    void Close() {
        if (fd_ >= 0) {
            close(fd_);
        }
        fd_ = -1;
    }
    // with_fd: and a descriptor that is no segment.
    void Send(const std::string &text, bool with_fd = false) {
        (void)SendWithDescriptor(fd_, text.data(), text.size(), with_fd ? fd_ : -1);
    }
    // The next message, or null.  `segment`: what came with it; the caller's to close.
    json Receive(int *segment) {
        static std::string text(kMaxControlMessage + 1, '\0');
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
        iovec part = {text.data(), text.size()};
        msghdr header = {};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        *segment = -1;
        const ssize_t n = recvmsg(fd_, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n <= 0) {
            return nullptr;
        }
        if (cmsghdr *rights = CMSG_FIRSTHDR(&header)) {
            memcpy(segment, CMSG_DATA(rights), sizeof(int));
        }
        json message;
        Check(static_cast<size_t>(n) <= kMaxControlMessage &&
                  ParseMessage(std::string_view(text.data(), static_cast<size_t>(n)), &message),
              "what clients get are messages");
        std::string said;
        Check(GetString(message, "op", &said) ||
                  (GetString(message, "error", &said) && GetString(message, "code", &said)),
              "an answer has an 'op', a refusal a reason and a code");
        return message;
    }

  private:
    int fd_ = -1;
};

void Serve(Input *input) {
    gangd::ServerConfig config;
    config.max_clients = kClients + 1;
    config.max_requests = 10000; // no clock in here
    config.limits = SmallLimits(60000);
    std::unique_ptr<gangd::Listener> listener;
    Check(gangd::Listener::Open(SocketPath(), &listener).ok(), "gangd can listen");
    gangd::Server server(config, std::move(listener));
    std::array<Client, kClients> clients;
    int segment = -1;
    for (int steps = 0; input->left() && steps < 200; steps++) {
        Client *client = &clients[input->Number(1) % kClients];
        const uint64_t what = input->Number(1);
        switch (what % 8) {
        case 0:
            client->Connect();
            break;
        case 1:
            client->Close();
            break;
        case 2:
            client->Send(Text(input), what & 8);
            break;
        case 3: { // a hostile member's hand in what gangd reads for status
            client->Receive(&segment);
            const uint64_t offset = input->Number(2);
            const size_t n = input->Length(1);
            if (segment >= 0) {
                (void)!pwrite(segment, input->Take(n), n, static_cast<off_t>(offset));
                close(segment);
            }
            break;
        }
        case 4:
            Turn();
            break;
        default:
            client->Send(DumpMessage(Request(input)), what & 16);
            break;
        }
    }
    Turn();
    for (Client &client : clients) {
        for (int i = 0; i < 64 && !client.Receive(&segment).is_null(); i++) {
            if (segment >= 0) {
                close(segment);
            }
        }
        client.Close();
    }
    Turn();
    Client other;
    other.Connect();
    other.Send(R"({"op": "hello", "version": 1})");
    other.Send(R"({"op": "status"})");
    Turn();
    Check(other.Receive(&segment).value("op", "") == "hello", "others are served");
    const json status = other.Receive(&segment);
    Check(status.value("op", "") == "status" && status["gangs"].empty(),
          "gangs end with their last member");
}

// Here the numbers stay small.
int OpenDescriptors() {
    int count = 0;
    for (int fd = 0; fd < 128; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const bool kOnce = [] {
        spdlog::set_level(spdlog::level::off);
        Input nothing(nullptr, 0);
        Serve(&nothing); // what GLib keeps for ever
        return atexit([] { unlink((SocketPath() + ".lock").c_str()); }) == 0;
    }();
    Check(kOnce, "this can be set up");
    const int before = OpenDescriptors();
    Input input(data, size);
    if (input.Number(1) & 1) {
        Coordinate(&input);
    } else {
        Serve(&input);
    }
    // gangd closes those that are no memory in a thread of its own.
    for (int i = 0; i < 5000 && OpenDescriptors() != before; i++) {
        usleep(1000);
    }
    Check(OpenDescriptors() == before, "no descriptor is left");
    return 0;
}
