// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gangd's own life: sockets of the dead, socket activation, notification,
// configuration, farewell.

#include "directory.h"
#include "gangd_process.h"

#include "testing.h"

namespace gang::test {
namespace {

std::vector<std::string> Command(const TempDir &dir, const std::string &socket) {
    std::ofstream(dir / "gangd.conf").close();
    return {GANGD_PATH, "--config", dir / "gangd.conf", "--socket", socket, "--store-size", "4M"};
}

sockaddr_un Address(const std::string &path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    return address;
}

int Bind(const std::string &path, int type) {
    int fd = socket(AF_UNIX, type, 0);
    sockaddr_un address = Address(path);
    EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    return fd;
}

TEST(GangdLife, TermSignalEndsItCleanly) {
    Gangd gangd;
    auto client = gangd.Source("web", "vm1", 2);
    gangd.process->Signal(SIGTERM);
    EXPECT_EQ(gangd.process->Wait(), 0);
    EXPECT_TRUE(client->HungUp());
    EXPECT_FALSE(std::filesystem::exists(gangd.socket));
}

TEST(GangdLife, SocketOfADeadGangdIsReplaced) {
    TempDir dir;
    std::string path = dir / "gangd.sock";
    {
        Process killed(Command(dir, path), dir / "out", dir / "log");
        ASSERT_TRUE(Soon([&] { return RawClient(path).connected(); }));
        killed.Signal(SIGKILL);
        killed.Wait();
    }
    ASSERT_TRUE(std::filesystem::exists(path));
    Process next(Command(dir, path), dir / "out", dir / "log");
    EXPECT_TRUE(Soon([&] { return RawClient(path).connected(); })) << ReadAll(dir / "log");
}

TEST(GangdLife, SecondGangdIsRefusedAndTheFirstGoesOn) {
    Gangd first;
    auto member = first.Source("web", "vm1", 2);
    Process second(Command(first.dir, first.socket), first.dir / "out2", first.dir / "log2");
    EXPECT_EQ(second.Wait(), 1);
    EXPECT_NE(ReadAll(first.dir / "log2").find("another gangd"), std::string::npos);
    auto other = first.Source("web", "vm2", 2);
    EXPECT_EQ(member->Receive()["op"], "directory");
}

TEST(GangdLife, FileThatIsNoSocketIsLeftAlone) {
    TempDir dir;
    std::string path = dir / "precious";
    std::ofstream(path) << "data";
    Process gangd(Command(dir, path), dir / "out", dir / "log");
    EXPECT_EQ(gangd.Wait(), 1);
    EXPECT_EQ(ReadAll(path), "data");
    EXPECT_NE(ReadAll(dir / "log").find("socket"), std::string::npos);
}

TEST(GangdLife, WhatIsWrongOnTheCommandLineIsAUsageError) {
    TempDir dir;
    auto status = [&](std::vector<std::string> flags) {
        auto command = Command(dir, dir / "gangd.sock");
        command.insert(command.end(), flags.begin(), flags.end());
        Process gangd(command, dir / "out", dir / "log");
        return gangd.Wait();
    };
    EXPECT_EQ(status({"--barrier-timeout", "soon"}), 2);
    EXPECT_EQ(status({"--allow-user", "no-such-user-here"}), 2);
    EXPECT_EQ(status({"--allow-group", "no-such-group-here"}), 2);
    EXPECT_EQ(status({"--store-size", "1"}), 2);
    EXPECT_EQ(status({"--store-size", "4 apples"}), 2);
    EXPECT_EQ(status({"--no-such-flag"}), 2);
    EXPECT_EQ(status({"--help"}), 0);
    EXPECT_EQ(status({"--version"}), 0);
    std::ofstream(dir / "gangd.conf") << "no-such-key = 1\n";
    Process gangd({GANGD_PATH, "--config", dir / "gangd.conf"}, dir / "out", dir / "log");
    EXPECT_EQ(gangd.Wait(), 2);
}

TEST(GangdLife, ConfigurationFileIsReadAndFlagsComeFirst) {
    TempDir dir;
    std::string path = dir / "configured.sock";
    std::ofstream(dir / "gangd.conf")
        << "# comment\nsocket = \"" << path << "\"\nbarrier-timeout = 0.2\nmax-gangs = 1\n"
        << "store-size = \"8M\"\nallow-user = [\"nobody\", \"0\"]\n";
    Process gangd({GANGD_PATH, "--config", dir / "gangd.conf", "--max-gangs", "2"}, dir / "out",
                  dir / "log");
    ASSERT_TRUE(Soon([&] { return RawClient(path).connected(); })) << ReadAll(dir / "log");
    RawClient member(path), other(path);
    EXPECT_TRUE(member.Hello());
    member.Send(SourceJoinRequest("web", "vm1", 2));
    EXPECT_EQ(member.Receive(2000)["missing"], 1);
    EXPECT_TRUE(other.Hello());
    other.Send(DestinationJoinRequest("web", "vm1"));
    EXPECT_EQ(other.Receive()["op"], "store");
}

TEST(GangdLife, ListensAtTheSocketThatTheServiceManagerMade) {
    TempDir dir;
    std::string path = dir / "activated.sock";
    int listener = Bind(path, SOCK_SEQPACKET);
    ASSERT_EQ(listen(listener, 16), 0);
    RawClient early(path); // waits in the backlog for gangd to be started
    Process gangd(Command(dir, dir / "unused.sock"), dir / "out", dir / "log", [&] {
        dup2(listener, 3);
        setenv("LISTEN_FDS", "1", 1);
        setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
    });
    close(listener);
    EXPECT_TRUE(early.Hello()) << ReadAll(dir / "log");
    EXPECT_FALSE(std::filesystem::exists(dir / "unused.sock"));
    gangd.Signal(SIGTERM);
    EXPECT_EQ(gangd.Wait(), 0);
    EXPECT_TRUE(std::filesystem::exists(path)); // it is the service manager's
}

TEST(GangdLife, SocketOfAnotherTypeFromTheServiceManagerIsRefused) {
    TempDir dir;
    int listener = Bind(dir / "stream.sock", SOCK_STREAM);
    ASSERT_EQ(listen(listener, 16), 0);
    Process gangd(Command(dir, dir / "unused.sock"), dir / "out", dir / "log", [&] {
        dup2(listener, 3);
        setenv("LISTEN_FDS", "1", 1);
        setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
    });
    close(listener);
    EXPECT_GT(gangd.Wait(), 0);
    EXPECT_NE(ReadAll(dir / "log").find("SEQPACKET"), std::string::npos);
}

// A store outlives the gang at the source where some of its VMs are still to come.
// What is in it is not known any more, so no slot of it is given out again.
TEST(GangdLife, StoreOfAGangThatEndedIsNotFilledAgain) {
    Gangd gangd;
    auto slots = [&](const char *member, char store) {
        auto client = std::make_unique<RawClient>(gangd.socket);
        EXPECT_TRUE(client->Hello());
        EXPECT_TRUE(client->Send(SourceJoinRequest("web", member, 1, store)));
        EXPECT_EQ(client->Receive().value("op", ""), "directory");
        std::unique_ptr<Directory> directory;
        int fd = client->TakeFd();
        EXPECT_TRUE(Directory::Open(fd, &directory).ok());
        close(fd);
        uint32_t first;
        const bool taken = directory->TakeChunk(0, 0, &first);
        client.reset();
        EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty(); }));
        return taken;
    };
    EXPECT_TRUE(slots("vm1", 'a'));
    EXPECT_FALSE(slots("vm2", 'a'));
    EXPECT_TRUE(slots("vm2", 'b'));
}

TEST(GangdLife, TellsTheServiceManagerWhenItIsReadyAndWhenItStops) {
    TempDir dir;
    std::string notify = dir / "notify";
    int manager = Bind(notify, SOCK_DGRAM);
    timeval limit = {5, 0};
    setsockopt(manager, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    auto said = [&](const std::string &word) {
        for (int i = 0; i < 10; i++) {
            char text[512];
            ssize_t n = recv(manager, text, sizeof(text), 0);
            if (n <= 0) {
                return false;
            }
            if (std::string(text, static_cast<size_t>(n)).find(word) != std::string::npos) {
                return true;
            }
        }
        return false;
    };
    Process gangd(Command(dir, dir / "gangd.sock"), dir / "out", dir / "log",
                  [&] { setenv("NOTIFY_SOCKET", notify.c_str(), 1); });
    EXPECT_TRUE(said("READY=1"));
    EXPECT_TRUE(RawClient(dir / "gangd.sock").connected()); // ready means ready
    gangd.Signal(SIGTERM);
    EXPECT_TRUE(said("STOPPING=1"));
    close(manager);
}

} // namespace
} // namespace gang::test
