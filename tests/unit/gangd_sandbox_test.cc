// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What gangd gives up: privileges, system calls, the network; and what its unit
// file says of it.

#include "gangd_process.h"

#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <set>

#include "sandbox.h"
#include "segment.h"
#include "testing.h"

namespace gang::test {
namespace {

// The exit status of `body` in a process that has entered the sandbox; 128 + signal.
int InSandbox(const std::function<bool()> &body) {
    pid_t pid = fork();
    if (pid == 0) {
        if (!gangd::EnterSandbox().ok()) {
            _exit(3);
        }
        _exit(body() ? 0 : 1);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

constexpr const char *kNoSandbox = "this build has a sanitizer, which gangd's filter would break";

TEST(Sandbox, SocketsProgramsAndOtherProcessesEndIt) {
    if (!gangd::SandboxPossible()) {
        GTEST_SKIP() << kNoSandbox;
    }
    const int killed = 128 + SIGSYS;
    EXPECT_EQ(InSandbox([] { return socket(AF_INET, SOCK_STREAM, 0) >= 0; }), killed);
    EXPECT_EQ(InSandbox([] { return socket(AF_INET6, SOCK_DGRAM, 0) >= 0; }), killed);
    EXPECT_EQ(InSandbox([] { return socket(AF_UNIX, SOCK_STREAM, 0) >= 0; }), killed);
    EXPECT_EQ(InSandbox([] { return execl("/bin/true", "true", nullptr) == 0; }), killed);
    EXPECT_EQ(InSandbox([] { return ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0; }), killed);
    EXPECT_EQ(InSandbox([] { return setuid(0) == 0; }), killed);
}

TEST(Sandbox, FilesAndCodeCannotBeHad) {
    if (!gangd::SandboxPossible()) {
        GTEST_SKIP() << kNoSandbox;
    }
    EXPECT_EQ(InSandbox([] { return open("/etc/passwd", O_RDONLY) < 0 && errno == ENOSYS; }), 0);
    EXPECT_EQ(InSandbox([] { return kill(getppid(), 0) < 0 && errno == ENOSYS; }), 0);
    EXPECT_EQ(InSandbox([] {
                  return mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                              0) == MAP_FAILED;
              }),
              0);
    EXPECT_EQ(InSandbox([] {
                  void *page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                  return page != MAP_FAILED && mprotect(page, 4096, PROT_READ | PROT_EXEC) != 0;
              }),
              0);
}

TEST(Sandbox, SharedMemoryCanStillBeMadeAndWiped) {
    if (!gangd::SandboxPossible()) {
        GTEST_SKIP() << kNoSandbox;
    }
    EXPECT_EQ(InSandbox([] {
                  int fd = -1;
                  return CreateSealedMemfd("test", 1 << 20, &fd).ok() &&
                         mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) !=
                             MAP_FAILED &&
                         fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
              }),
              0);
}

// The values of a line of /proc/PID/status, of all threads of a process.
std::set<std::string> OfThreads(pid_t pid, const std::string &key) {
    std::set<std::string> values;
    std::string tasks = "/proc/" + std::to_string(pid) + "/task";
    for (const auto &task : std::filesystem::directory_iterator(tasks)) {
        std::ifstream status(task.path() / "status");
        for (std::string line; std::getline(status, line);) {
            if (line.rfind(key + ":\t", 0) == 0) {
                values.insert(line.substr(key.size() + 2));
            }
        }
    }
    return values;
}

TEST(GangdSandbox, AllThreadsServeBehindTheFilterUnlessToldNotTo) {
    // This process may be behind a filter of its own, as in a container.
    const std::set<std::string> own = OfThreads(getpid(), "Seccomp_filters");
    if (own.size() != 1) {
        GTEST_SKIP() << "this kernel does not tell of filters";
    }
    const std::set<std::string> one_more = {std::to_string(std::stoi(*own.begin()) + 1)};
    Gangd filtered, open({"--no-seccomp"});
    EXPECT_TRUE(filtered.Serves() && open.Serves());
    EXPECT_EQ(OfThreads(open.process->pid(), "Seccomp_filters"), own);
    EXPECT_NE(open.log().find("no system call filter: --no-seccomp"), std::string::npos);
    if (gangd::SandboxPossible()) {
        EXPECT_EQ(OfThreads(filtered.process->pid(), "Seccomp_filters"), one_more);
        EXPECT_EQ(OfThreads(filtered.process->pid(), "NoNewPrivs"), std::set<std::string>{"1"});
    } else { // off, and said so
        EXPECT_EQ(OfThreads(filtered.process->pid(), "Seccomp_filters"), own);
        EXPECT_NE(filtered.log().find("sanitizer"), std::string::npos) << filtered.log();
    }
}

// Every socket that gangd has is a unix socket.
TEST(GangdSandbox, HasNoSocketOfTheNetwork) {
    Gangd gangd;
    auto source = gangd.Source("web", "vm1", 1);
    EXPECT_EQ(source->Receive()["op"], "directory");
    std::set<std::string> unix_sockets;
    std::ifstream table("/proc/" + std::to_string(gangd.process->pid()) + "/net/unix");
    for (std::string line; std::getline(table, line);) {
        std::istringstream fields(line);
        std::string field, inode;
        for (int i = 0; i < 7 && fields >> field; i++) {
            inode = field;
        }
        unix_sockets.insert("socket:[" + inode + "]");
    }
    size_t sockets = 0;
    std::string fds = "/proc/" + std::to_string(gangd.process->pid()) + "/fd";
    for (const auto &fd : std::filesystem::directory_iterator(fds)) {
        std::error_code gone;
        std::string target = std::filesystem::read_symlink(fd.path(), gone);
        if (target.rfind("socket:", 0) == 0) {
            sockets++;
            EXPECT_TRUE(unix_sockets.count(target)) << target;
        }
    }
    EXPECT_GE(sockets, 2u); // the listener and the member
}

TEST(GangdSandbox, ServesAsAUserWithoutPrivileges) {
    NEEDS_ROOT();
    TempDir dir;
    const passwd *nobody = getpwnam("nobody");
    ASSERT_TRUE(nobody);
    ASSERT_EQ(chown((dir / "").c_str(), nobody->pw_uid, nobody->pw_gid), 0);
    std::ofstream(dir / "gangd.conf").close();
    // Its path may lead through directories that are root's only.
    int program = open(GANGD_PATH, O_RDONLY);
    ASSERT_GE(program, 0);
    const std::string socket = dir / "gangd.sock";
    Process gangd({"/proc/self/fd/" + std::to_string(program), "--config", dir / "gangd.conf",
                   "--socket", socket, "--store-size", "4M"},
                  dir / "out", dir / "log", [] {
                      if (!BecomeNobody()) {
                          _exit(126);
                      }
                  });
    close(program);
    ASSERT_TRUE(Soon([&] { return RawClient(socket).connected(); })) << ReadAll(dir / "log");
    RawClient source(socket), destination(socket), operator_(socket);
    EXPECT_TRUE(source.Hello() && destination.Hello() && operator_.Hello());
    source.Send(SourceJoinRequest("web", "vm1", 1));
    EXPECT_EQ(source.Receive()["op"], "directory");
    destination.Send(DestinationJoinRequest("web", "vm1"));
    EXPECT_EQ(destination.Receive()["op"], "store");
    operator_.Send({{"op", "status"}});
    EXPECT_EQ(operator_.Receive()["gangs"].size(), 2u);
    EXPECT_EQ(ReadAll(dir / "log").find("runs as root"), std::string::npos);
}

// The service as systemd's own judge sees it: 0.0 to 10.0, times ten.
TEST(GangdUnit, IsRatedSafeBySystemd) {
    if (system("command -v systemd-analyze >/dev/null 2>&1") != 0) {
        GTEST_SKIP() << "no systemd-analyze here (Debian's package systemd has it)";
    }
    TempDir dir;
    auto rated_within = [&](const char *tenths) {
        std::string command = std::string("systemd-analyze security --offline=true --no-pager "
                                          "--threshold=") +
                              tenths + " " GANGD_UNIT " >" + (dir / "out") + " 2>&1";
        return system(command.c_str()) == 0;
    };
    EXPECT_TRUE(rated_within("20")) << ReadAll(dir / "out");
    EXPECT_FALSE(rated_within("0")) << "systemd-analyze rates nothing";
}

} // namespace
} // namespace gang::test
