// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What gangd tells Prometheus is in the text format that Prometheus reads, and
// nobody who reads it disturbs the gangs.

#include <netinet/in.h>
#include <sys/resource.h>

#include <cmath>
#include <map>
#include <regex>
#include <set>

#include "directory.h"
#include "gangd_process.h"
#include "testing.h"

namespace gang::test {
namespace {

int Connect(const std::string &path) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    if (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

// The whole answer to one GET; closes fd.
std::string Get(int fd) {
    const std::string request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    std::string answer;
    if (fd < 0 || send(fd, request.data(), request.size(), MSG_NOSIGNAL) < 0) {
        return answer;
    }
    for (;;) {
        char bytes[4096];
        pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
        if (poll(&entry, 1, kSoonMs) <= 0) {
            break;
        }
        ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
        if (n <= 0) {
            break;
        }
        answer.append(bytes, static_cast<size_t>(n));
    }
    close(fd);
    return answer;
}

// The samples, by name and labels; fails for what the format does not allow.
std::map<std::string, double> Parse(const std::string &answer) {
    std::map<std::string, double> samples;
    const size_t body = answer.find("\r\n\r\n");
    EXPECT_EQ(answer.rfind("HTTP/1.0 200 OK\r\n", 0), 0u) << answer;
    EXPECT_NE(answer.find("Content-Type: text/plain; version=0.0.4"), std::string::npos);
    EXPECT_NE(body, std::string::npos);
    const std::string text = body == std::string::npos ? "" : answer.substr(body + 4);
    EXPECT_TRUE(text.empty() || text.back() == '\n');
    const std::regex help("# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) [^\\n]*"),
        type("# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)"),
        sample("([a-zA-Z_:][a-zA-Z0-9_:]*)\\{((?:[a-zA-Z_][a-zA-Z0-9_]*=\"[^\"\\\\\\n]*\",?)*)\\} "
               "([-+0-9.eE]+)");
    std::set<std::string> families;
    std::string helped, typed, kind;
    std::istringstream lines(text);
    std::smatch match;
    for (std::string line; std::getline(lines, line);) {
        if (std::regex_match(line, match, help)) {
            helped = match[1];
            EXPECT_TRUE(families.insert(helped).second) << "twice: " << helped;
        } else if (std::regex_match(line, match, type)) {
            typed = match[1];
            kind = match[2];
            EXPECT_EQ(typed, helped);
        } else if (std::regex_match(line, match, sample)) {
            EXPECT_EQ(match[1].str(), typed) << "a family's samples stand together";
            const std::string &name = typed;
            EXPECT_EQ(kind == "counter",
                      name.size() > 6 && name.substr(name.size() - 6) == "_total")
                << name;
            EXPECT_TRUE(samples
                            .emplace(std::string(match[1]) + "{" + std::string(match[2]) + "}",
                                     std::stod(match[3]))
                            .second)
                << line;
        } else {
            ADD_FAILURE() << "no line of the format: " << line;
        }
    }
    return samples;
}

class GangdMetrics : public testing::Test {
  protected:
    // An answer comes from the main loop, which runs when the socket is there.
    GangdMetrics() : gangd({"--metrics", dir / "metrics.sock"}) { EXPECT_TRUE(gangd.Serves()); }
    std::map<std::string, double> Samples() { return Parse(Get(Connect(dir / "metrics.sock"))); }
    TempDir dir;
    Gangd gangd;
};

// Ticks of the clock that it ran.
uint64_t Ticks(pid_t pid) {
    const std::string stat = ReadAll("/proc/" + std::to_string(pid) + "/stat");
    std::istringstream rest(stat.substr(stat.rfind(')') + 2));
    std::string word;
    for (int i = 0; i < 11; i++) {
        rest >> word;
    }
    uint64_t user = 0, system = 0;
    rest >> user >> system;
    return user + system;
}

TEST_F(GangdMetrics, ClientThatCannotBeAcceptedCostsNoTime) {
    const pid_t pid = gangd.process->pid();
    rlimit before = {}, none = {};
    ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, nullptr, &before), 0);
    none = before;
    const std::string fds = "/proc/" + std::to_string(pid) + "/fd/";
    std::error_code ignored;
    EXPECT_TRUE(Soon([&] { // both that listen: those who asked whether it serves have gone
        size_t sockets = 0;
        for (const auto &fd : std::filesystem::directory_iterator(fds, ignored)) {
            sockets += std::filesystem::read_symlink(fd, ignored).string().starts_with("socket:");
        }
        return sockets == 2;
    }));
    for (none.rlim_cur = 0; // the first one that is free
         std::filesystem::is_symlink(fds + std::to_string(none.rlim_cur), ignored);) {
        none.rlim_cur++;
    }
    ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &none, nullptr), 0);
    const int client = Connect(dir / "metrics.sock");
    ASSERT_GE(client, 0);
    ASSERT_TRUE(Soon([&] {
        return gangd.log().find("cannot accept a connection for metrics") != std::string::npos;
    }));
    const uint64_t ticks = Ticks(pid);
    std::this_thread::sleep_for(std::chrono::seconds(1));
    EXPECT_LE(Ticks(pid) - ticks, static_cast<uint64_t>(sysconf(_SC_CLK_TCK)) / 10);
    ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &before, nullptr), 0);
    EXPECT_FALSE(Parse(Get(client)).empty());
}

TEST_F(GangdMetrics, IdleCoordinatorIsThere) {
    auto samples = Samples();
    ASSERT_EQ(samples.size(), 1u);
    EXPECT_EQ(samples.begin()->first.rfind("gangd_info{version=", 0), 0u);
}

TEST_F(GangdMetrics, MembersFiguresAreWhatTheirProcessesWrote) {
    auto incoming = gangd.Client();
    incoming->Send(DestinationJoinRequest("web", "vm1"));
    ASSERT_EQ(incoming->Receive().value("op", ""), "store");
    auto source = gangd.Source("web", "vm1", 1);
    json grant = source->Receive();
    ASSERT_EQ(grant.value("op", ""), "directory") << grant;
    std::unique_ptr<Directory> directory;
    int fd = source->TakeFd();
    GANG_OK(Directory::Open(fd, &directory));
    close(fd);
    const auto index = grant["index"].get<uint32_t>();
    directory->SetStat(index, Stat::kReferencedPages, 77);
    directory->SetStat(index, Stat::kZeroPages, 100);
    directory->SetStat(index, Stat::kHandledPages, 300);
    directory->SetStat(index, Stat::kPayloadBytes, 4096);
    directory->SetStat(index, Stat::kWireBytes, uint64_t{1} << 40);
    directory->SetStat(index, Stat::kRemainingPages, 10);
    directory->SetStat(index, Stat::kProgress, 250);
    directory->SetStat(index, Stat::kLeftMs, 1500);
    auto samples = Samples();
    const std::string who = "{gang=\"web\",member=\"vm1\"";
    EXPECT_EQ(samples.at("gang_member_pages_total" + who + ",kind=\"referenced\"}"), 77);
    EXPECT_EQ(samples.at("gang_member_wire_bytes_total" + who + "}"), std::pow(2, 40));
    EXPECT_EQ(samples.at("gang_member_saved_bytes" + who + "}"), 199 * 4096);
    EXPECT_EQ(samples.at("gang_member_remaining_bytes" + who + "}"), 40960);
    EXPECT_EQ(samples.at("gang_member_progress_ratio" + who + "}"), 0.25);
    EXPECT_EQ(samples.at("gang_member_estimated_seconds" + who + "}"), 1.5);
    EXPECT_EQ(samples.at("gang_member_ram_bytes" + who + "}"), 4096.0 * 4096);
    EXPECT_EQ(samples.at("gang_progress_ratio{gang=\"web\",role=\"source\"}"), 0.25);
    EXPECT_EQ(samples.at("gang_members{gang=\"web\",role=\"destination\"}"), 1);
    EXPECT_EQ(samples.at("gang_store_slots_used{gang=\"web\",role=\"destination\"}"), 0);
    directory->SetStat(index, Stat::kLeftMs, UINT64_MAX);
    directory->SetStat(index, Stat::kPayloadBytes, UINT64_MAX); // nonsense is shown, not trusted
    // The same text serves those who ask within 100 ms.
    EXPECT_TRUE(Soon([&] {
        samples = Samples();
        return samples.count("gang_member_estimated_seconds" + who + "}") == 0;
    }));
    EXPECT_EQ(samples.count("gang_member_estimated_seconds" + who + "}"), 0u);
    EXPECT_EQ(samples.at("gang_member_saved_bytes" + who + "}"), 0);
}

TEST_F(GangdMetrics, ClientsThatSayNothingOrTooMuchDisturbNobody) {
    std::vector<int> silent;
    for (int i = 0; i < 10; i++) {
        silent.push_back(Connect(dir / "metrics.sock"));
        EXPECT_GE(silent.back(), 0);
    }
    EXPECT_EQ(Samples().size(), 1u);
    int fd = Connect(dir / "metrics.sock");
    const std::string much(1 << 20, 'x');
    (void)!send(fd, much.data(), much.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
    EXPECT_EQ(Samples().size(), 1u);
    EXPECT_TRUE(gangd.Serves());
    for (int one : silent) {
        close(one);
    }
    EXPECT_EQ(Samples().size(), 1u);
}

TEST_F(GangdMetrics, SocketIsForItsUserAndGroupAndGoesWithGangd) {
    struct stat st = {};
    ASSERT_EQ(stat((dir / "metrics.sock").c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0660u);
    gangd.process->Signal(SIGTERM);
    EXPECT_EQ(gangd.process->Wait(), 0);
    EXPECT_NE(stat((dir / "metrics.sock").c_str(), &st), 0);
}

TEST(GangdMetricsAddress, StaleSocketIsReplaced) {
    TempDir dir;
    auto first = std::make_unique<Gangd>(std::vector<std::string>{"--metrics", dir / "m.sock"});
    first->process->Signal(SIGKILL);
    first->process->Wait();
    Gangd second({"--metrics", dir / "m.sock"});
    EXPECT_TRUE(second.Serves());
    EXPECT_EQ(Parse(Get(Connect(dir / "m.sock"))).size(), 1u);
}

TEST(GangdMetricsAddress, OnlyThisHostIsServed) {
    TempDir dir;
    for (const char *address : {"0.0.0.0:9100", "192.0.2.1:9100", "127.0.0.1", "127.0.0.1:0",
                                "127.0.0.1:99999", "[::]:9100"}) {
        std::ofstream(dir / "gangd.conf").close();
        Process gangd({GANGD_PATH, "--config", dir / "gangd.conf", "--socket", dir / "gangd.sock",
                       "--metrics", address},
                      dir / "out", dir / "log");
        EXPECT_EQ(gangd.Wait(), 1) << address;
        EXPECT_NE(ReadAll(dir / "log").find("127.0.0.1:PORT"), std::string::npos);
    }
}

TEST(GangdMetricsAddress, LoopbackPortWorksToo) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr *>(&address), size), 0);
    ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size), 0);
    close(fd); // who binds to any port is given another one, as a rule
    Gangd gangd({"--metrics", "127.0.0.1:" + std::to_string(ntohs(address.sin_port))});
    EXPECT_TRUE(gangd.Serves());
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0)
        << gangd.log();
    EXPECT_EQ(Parse(Get(fd)).size(), 1u);
}

} // namespace
} // namespace gang::test
