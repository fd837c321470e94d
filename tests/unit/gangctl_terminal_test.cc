// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gangctl where standard input and output are something else than files.

#include "fake_qemu.h"

#include <pty.h>

namespace gang::test {
namespace {

class GangctlTerminal : public testing::Test {
  protected:
    GangctlTerminal() {
        plan = {{"gang", "web"},
                {"source_coordinator", gangd.socket},
                {"destination_coordinator", gangd.socket},
                {"vms", json::array()}};
        for (int i = 0; i < 2; i++) {
            std::string n = std::to_string(i);
            sources.push_back(std::make_unique<FakeQemu>(dir / ("s" + n), false));
            destinations.push_back(std::make_unique<FakeQemu>(dir / ("d" + n), true));
            sources[i]->name = "guest" + n;
            sources[i]->arrives_at = destinations[i].get();
            sources[i]->Start();
            destinations[i]->Start();
            plan["vms"].push_back({{"name", "vm" + n},
                                   {"source", sources[i]->path()},
                                   {"destination", destinations[i]->path()},
                                   {"uri", "tcp:127.0.0.1:700" + n}});
        }
        std::ofstream(dir / "plan.json") << plan;
    }
    // What gangctl shows on a terminal of `columns`.
    std::string OnTerminal(unsigned short columns, int *status) {
        int master = -1, slave = -1;
        winsize size = {.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
        EXPECT_EQ(openpty(&master, &slave, nullptr, nullptr, &size), 0);
        fcntl(master, F_SETFD, FD_CLOEXEC);
        Process gangctl({GANGCTL_PATH, "migrate", "--plan", dir / "plan.json"}, dir / "out",
                        dir / "err", [&] {
                            dup2(slave, STDOUT_FILENO);
                            close(slave);
                            setenv("TERM", "xterm", 1);
                        });
        close(slave);
        std::string seen;
        EXPECT_TRUE(Soon(
            [&] {
                char bytes[4096];
                pollfd entry = {.fd = master, .events = POLLIN, .revents = 0};
                ssize_t n = poll(&entry, 1, 10) > 0 ? read(master, bytes, sizeof(bytes)) : 0;
                seen.append(bytes, n > 0 ? static_cast<size_t>(n) : 0);
                return n < 0; // gangctl has ended, and all it said is read
            },
            30000));
        *status = gangctl.Wait();
        close(master);
        return seen;
    }

    TempDir dir;
    Gangd gangd;
    std::vector<std::unique_ptr<FakeQemu>> sources, destinations;
    json plan;
};

TEST_F(GangctlTerminal, HasABarForEachVmAndTheGangDrawnInPlace) {
    int status = -1;
    std::string seen = OnTerminal(80, &status);
    EXPECT_EQ(status, 0) << ReadAll(dir / "err");
    EXPECT_NE(seen.find("vm0"), std::string::npos) << seen;
    EXPECT_NE(seen.find("vm1"), std::string::npos) << seen;
    EXPECT_NE(seen.find("[#####"), std::string::npos) << seen;
    EXPECT_NE(seen.find("16.0K shared"), std::string::npos) << seen; // 4 pages
    EXPECT_NE(seen.find("\x1b[3A"), std::string::npos) << seen;      // two VMs and the gang
    EXPECT_NE(seen.find("gang completed"), std::string::npos) << seen;
}

// A bar that wraps could not be drawn over.
TEST_F(GangctlTerminal, BarsAreNoLongerThanTheTerminalIsWide) {
    int status = -1;
    std::string seen = OnTerminal(40, &status);
    EXPECT_EQ(status, 0);
    std::istringstream lines(seen);
    size_t bars = 0;
    for (std::string line; std::getline(lines, line);) {
        size_t at = line.find("vm");
        if (at == std::string::npos || line.find('[', at) == std::string::npos) {
            continue;
        }
        bars++;
        EXPECT_LE(line.find('\x1b', at) - at, 40u) << line;
    }
    EXPECT_GE(bars, 4u);
}

TEST_F(GangctlTerminal, PlanMayComeFromStandardInput) {
    Process gangctl({GANGCTL_PATH, "migrate", "--json", "--plan", "-"}, dir / "out", dir / "err",
                    [&] { dup2(open((dir / "plan.json").c_str(), O_RDONLY), STDIN_FILENO); });
    EXPECT_EQ(gangctl.Wait(30000), 0) << ReadAll(dir / "err");
    EXPECT_NE(ReadAll(dir / "out").find("\"result\":\"completed\""), std::string::npos);
}

} // namespace
} // namespace gang::test
