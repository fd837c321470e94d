// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A real gangd for a test, and a client that may say what it likes.

#ifndef GANG_GANGD_PROCESS_H
#define GANG_GANGD_PROCESS_H

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "control.h"
#include "control_message.h"
#include "descriptor.h"

namespace gang::test {

using nlohmann::json;

inline constexpr int kSoonMs = 5000; // an answer that is due has come by then

// Whether `condition` becomes true soon.
inline bool Soon(const std::function<bool()> &condition, int ms = kSoonMs) {
    auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) {
            return false;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
}

// Only root can become another user, which tests of what other users may not do have to.
// scripts/test runs as root, so there none is skipped.
#define NEEDS_ROOT()                                                                               \
    if (geteuid() != 0) {                                                                          \
        GTEST_SKIP() << "only root can become another user: run it as root, as scripts/test does"; \
    }

// A directory that anybody may enter and that goes with its files.
class TempDir {
  public:
    TempDir() {
        char name[] = "/tmp/gang-test-XXXXXX";
        path_ = mkdtemp(name);
        chmod(path_.c_str(), 0755);
    }
    ~TempDir() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TempDir(const TempDir &) = delete;
    TempDir &operator=(const TempDir &) = delete;
    std::string operator/(const std::string &name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

inline std::string ReadAll(const std::string &path) {
    std::ifstream in(path);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
}

// A program in a process of its own, killed at the end if it still runs.
class Process {
  public:
    // `in_child` runs between fork and exec.
    Process(
        std::vector<std::string> command, const std::string &out, const std::string &err,
        const std::function<void()> &in_child = [] {}) {
        pid_ = fork();
        if (pid_ == 0) {
            auto redirect = [](const std::string &path, int to) {
                int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
                dup2(fd, to);
                close(fd);
            };
            redirect(out, STDOUT_FILENO);
            redirect(err, STDERR_FILENO);
            in_child();
            std::vector<char *> argv;
            for (std::string &word : command) {
                argv.push_back(word.data());
            }
            argv.push_back(nullptr);
            execv(argv[0], argv.data());
            _exit(127);
        }
    }
    ~Process() {
        if (status_ < 0) {
            Signal(SIGKILL);
            Wait();
        }
    }
    Process(const Process &) = delete;
    Process &operator=(const Process &) = delete;

    pid_t pid() const { return pid_; }
    void Signal(int number) { kill(pid_, number); }
    // The exit status; 128 + signal; -1 when it does not end soon.
    int Wait(int ms = 10000) {
        Soon([&] { return status_ >= 0 || Reap(); }, ms);
        return status_;
    }

  private:
    bool Reap() {
        int status = 0;
        if (waitpid(pid_, &status, WNOHANG) != pid_) {
            return false;
        }
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        return true;
    }
    pid_t pid_ = -1;
    int status_ = -1;
};

// One SOCK_SEQPACKET connection, without the manners of ControlClient.
class RawClient {
  public:
    explicit RawClient(const std::string &path) {
        fd_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
        connected_ = connect(fd_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) == 0;
    }
    ~RawClient() { Close(); }
    RawClient(const RawClient &) = delete;
    RawClient &operator=(const RawClient &) = delete;

    void Close() {
        if (fd_ >= 0) {
            close(fd_);
        }
        fd_ = -1;
    }
    bool connected() const { return connected_; }
    int fd() const { return fd_; }
    bool SendText(const std::string &text) {
        return send(fd_, text.data(), text.size(), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(text.size());
    }
    bool Send(const json &message) { return SendText(message.dump()); }
    bool SendWith(const json &message, int fd) {
        const std::string text = message.dump();
        return SendWithDescriptor(fd_, text.data(), text.size(), fd) ==
               static_cast<ssize_t>(text.size());
    }
    // The next message, or null when none comes; {"hangup": true} at the end.
    // A descriptor is kept in `received`.
    json Receive(int ms = kSoonMs) {
        pollfd entry = {.fd = fd_, .events = POLLIN, .revents = 0};
        if (poll(&entry, 1, ms) <= 0) {
            return nullptr;
        }
        std::string text(100000, '\0');
        alignas(cmsghdr) char control[256];
        iovec part = {.iov_base = text.data(), .iov_len = text.size()};
        msghdr header = {};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        ssize_t n = recvmsg(fd_, &header, MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == ECONNRESET) { // what was said before it follows
            n = recvmsg(fd_, &header, MSG_CMSG_CLOEXEC);
        }
        if (n <= 0) {
            return {{"hangup", true}};
        }
        cmsghdr *rights = CMSG_FIRSTHDR(&header);
        if (rights && rights->cmsg_type == SCM_RIGHTS) {
            if (received >= 0) {
                close(received);
            }
            memcpy(&received, CMSG_DATA(rights), sizeof(int));
        }
        text.resize(static_cast<size_t>(n));
        return json::parse(text, nullptr, false);
    }
    // The code of the refusal that comes next; what it says is in `why`.
    std::string Refused() {
        json message = Receive();
        if (!message.is_object()) {
            return message.dump();
        }
        why = message.value("error", "");
        return message.value("code", message.dump());
    }
    std::string why;
    bool HungUp() { return Receive() == json{{"hangup", true}}; }
    bool Silent(int ms = 150) { return Receive(ms).is_null(); }
    bool Hello() {
        return Send({{"op", "hello"},
                     {"version", 1},
                     {"layout", LayoutText(LayoutSignature())},
                     {"client", "test"}}) &&
               Receive().value("op", "") == "hello";
    }
    int TakeFd() { return std::exchange(received, -1); }
    int received = -1;

  private:
    int fd_ = -1;
    bool connected_ = false;
};

inline ino_t Inode(int fd) {
    struct stat st = {};
    return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

inline json SourceJoinRequest(const std::string &gang, const std::string &member, int members,
                              char store = 'a') {
    return {{"op", "join-source"},
            {"gang", gang},
            {"member", member},
            {"members", members},
            {"pid", getpid()},
            {"store", std::string(32, store)},
            {"seed", std::string(32, '5')},
            {"hash", "xxh3-128"},
            {"slots", 1024},
            {"page-size", 4096},
            {"ram-pages", 4096},
            {"channels", 2}};
}

inline json DestinationJoinRequest(const std::string &gang, const std::string &member) {
    return {{"op", "join-destination"},
            {"gang", gang},
            {"member", member},
            {"pid", getpid()},
            {"page-size", 4096}};
}

// Makes this process one of the user `nobody`; false: it may not.
inline bool BecomeNobody() {
    passwd *nobody = getpwnam("nobody");
    return nobody && setgroups(0, nullptr) == 0 && setgid(nobody->pw_gid) == 0 &&
           setuid(nobody->pw_uid) == 0;
}

// Runs `body` as the user `nobody`; 0: it was true.
inline int AsNobody(const std::function<bool()> &body) {
    pid_t pid = fork();
    if (pid == 0) {
        if (!BecomeNobody()) {
            _exit(2);
        }
        _exit(body() ? 0 : 1);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#ifdef GANGD_PATH
// gangd with a socket and a configuration of its own: a test is all clients in
// one process, and stores are small.
class Gangd {
  public:
    explicit Gangd(std::vector<std::string> flags = {}) : socket(dir / "gangd.sock") {
        std::ofstream(dir / "gangd.conf") << "max-process-clients = 1000\nstore-size = \"4M\"\nstore-keep = 0\n";
        command = {GANGD_PATH, "--config", dir / "gangd.conf", "--socket", socket};
        command.insert(command.end(), flags.begin(), flags.end());
        Start();
    }
    void Start() {
        process = std::make_unique<Process>(command, dir / "out", dir / "log");
        EXPECT_TRUE(Soon([&] { return RawClient(socket).connected(); })) << log();
    }
    // Without a word to anybody.
    void Kill() {
        process->Signal(SIGKILL);
        process->Wait();
    }
    void Restart() {
        Kill();
        Start();
    }
    std::string log() const { return ReadAll(dir / "log"); }
    std::unique_ptr<RawClient> Client() const {
        auto client = std::make_unique<RawClient>(socket);
        EXPECT_TRUE(client->Hello()) << log();
        return client;
    }
    std::unique_ptr<RawClient> Source(const std::string &gang, const std::string &member,
                                      int members, char store = 'a') const {
        auto client = Client();
        EXPECT_TRUE(client->Send(SourceJoinRequest(gang, member, members, store)));
        return client;
    }
    json Status() const {
        std::unique_ptr<ControlClient> client;
        json status;
        EXPECT_TRUE(ControlClient::Connect(socket, kSoonMs, &client).ok());
        EXPECT_TRUE(client && client->Hello("test", false, kSoonMs).ok() &&
                    client->QueryStatus(&status, kSoonMs).ok());
        return status;
    }
    bool Serves() const {
        RawClient client(socket);
        return client.connected() && client.Hello();
    }

    TempDir dir;
    std::string socket;
    std::vector<std::string> command;
    std::unique_ptr<Process> process;
};
#endif

} // namespace gang::test

#endif
