// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The coordinator's promises to members: barriers, deaths, and shared memory
// that goes to those it belongs to.

#include "gangd_process.h"

#include <map>
#include <random>
#include <set>

#include "directory.h"
#include "testing.h"

namespace gang::test {
namespace {

TEST(GangdBarrier, DirectoryComesToAllWhenTheLastMemberHasJoined) {
    Gangd gangd;
    auto first = gangd.Source("web", "vm1", 2);
    EXPECT_TRUE(first->Silent());

    auto second = gangd.Source("web", "vm2", 2);
    json one = first->Receive(), two = second->Receive();

    EXPECT_EQ(one["op"], "directory");
    EXPECT_EQ(one["missing"], 0);
    EXPECT_EQ(one["joined"], 2);
    EXPECT_NE(one["index"], two["index"]);
    EXPECT_NE(Inode(first->received), 0u);
    EXPECT_EQ(Inode(first->received), Inode(second->received));
}

TEST(GangdBarrier, MembersThatDoNotComeAreWaitedForNoLongerThanTheTimeout) {
    Gangd gangd({"--barrier-timeout", "0.4"});
    auto member = gangd.Source("web", "vm1", 3);
    EXPECT_TRUE(member->Silent(100));
    json grant = member->Receive();
    EXPECT_EQ(grant["op"], "directory");
    EXPECT_EQ(grant["joined"], 1);
    EXPECT_EQ(grant["missing"], 2);
}

TEST(GangdBarrier, StartComesToAllWhenTheLastHasScanned) {
    Gangd gangd;
    auto first = gangd.Source("web", "vm1", 2), second = gangd.Source("web", "vm2", 2);
    first->Receive();
    second->Receive();

    first->Send({{"op", "scanned"}});
    EXPECT_TRUE(first->Silent());
    second->Send({{"op", "scanned"}});

    EXPECT_EQ(first->Receive()["op"], "start");
    EXPECT_EQ(second->Receive()["op"], "start");
}

TEST(GangdBarrier, SlowScanIsWaitedForNoLongerThanTheTimeout) {
    Gangd gangd({"--barrier-timeout", "0.4"});
    auto first = gangd.Source("web", "vm1", 2), second = gangd.Source("web", "vm2", 2);
    first->Receive();
    second->Receive();
    first->Send({{"op", "scanned"}});
    EXPECT_EQ(first->Receive()["op"], "start");
    EXPECT_TRUE(second->Silent());
    second->Send({{"op", "scanned"}});
    EXPECT_EQ(second->Receive()["op"], "start");
}

TEST(GangdBarrier, LateMemberGetsTheDirectoryAndStartAtOnce) {
    Gangd gangd({"--barrier-timeout", "0.3"});
    auto first = gangd.Source("web", "vm1", 2);
    first->Receive();
    first->Send({{"op", "scanned"}});
    EXPECT_EQ(first->Receive()["op"], "start");

    auto late = gangd.Source("web", "vm2", 2);
    EXPECT_EQ(late->Receive()["op"], "directory");
    EXPECT_EQ(Inode(late->received), Inode(first->received));
    late->Send({{"op", "scanned"}});
    EXPECT_EQ(late->Receive()["op"], "start");
}

// Invariant 4: a dead member harms nobody.
TEST(GangdLiveness, KilledMemberHoldsUpNeitherBarrier) {
    Gangd gangd({"--barrier-timeout", "2"});
    auto in_child = [&](const char *name) {
        int ready[2];
        EXPECT_EQ(pipe(ready), 0);
        pid_t pid = fork();
        if (pid == 0) {
            RawClient client(gangd.socket);
            client.Hello();
            client.Send(SourceJoinRequest("web", name, 3));
            (void)!write(ready[1], "x", 1);
            for (int i = 0; i < 600; i++) {
                usleep(100000);
            }
            _exit(0);
        }
        char byte;
        EXPECT_EQ(read(ready[0], &byte, 1), 1);
        close(ready[0]);
        close(ready[1]);
        return pid;
    };
    auto end = [](pid_t pid) {
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
    };
    pid_t waits = in_child("vm1");
    auto survivor = gangd.Source("web", "vm2", 3);
    EXPECT_TRUE(survivor->Silent());
    end(waits); // while it waits for the gang
    ASSERT_TRUE(Soon([&] {
        return gangd.Status().dump().find("\"state\":\"dead\"") != std::string::npos;
    }));
    pid_t scans = in_child("vm3");
    json grant = survivor->Receive();
    ASSERT_EQ(grant["op"], "directory") << grant;
    EXPECT_EQ(grant["missing"], 1);

    survivor->Send({{"op", "scanned"}});
    EXPECT_TRUE(survivor->Silent());
    std::unique_ptr<Directory> directory;
    GANG_OK(Directory::Open(survivor->received, &directory));
    end(scans); // while it should scan
    EXPECT_EQ(survivor->Receive()["op"], "start");
    uint32_t other = 1 - grant["index"].get<uint32_t>();
    EXPECT_EQ(directory->member_state(other), MemberState::kDead);
    EXPECT_EQ(directory->member_state(grant["index"]), MemberState::kAlive);
}

TEST(GangdLiveness, ShutMemberIsLeftAndNotDead) {
    Gangd gangd;
    auto first = gangd.Source("web", "vm1", 2), second = gangd.Source("web", "vm2", 2);
    json grant = first->Receive();
    second->Receive();
    std::unique_ptr<Directory> directory;
    GANG_OK(Directory::Open(second->received, &directory));
    first->Send({{"op", "leave"}, {"result", "completed"}});
    first->Close();
    EXPECT_TRUE(
        Soon([&] { return directory->member_state(grant["index"]) == MemberState::kLeft; }));
    json gang = gangd.Status()["gangs"][0];
    EXPECT_EQ(gang["members"][0]["state"], "completed");
}

TEST(GangdLiveness, GangIsForgottenWithItsLastMember) {
    Gangd gangd;
    auto first = gangd.Source("web", "vm1", 1);
    first->Receive();
    ino_t inode = Inode(first->received);
    first.reset();
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty(); }));
    auto again = gangd.Source("web", "vm1", 1);
    EXPECT_EQ(again->Receive()["op"], "directory");
    EXPECT_NE(Inode(again->received), inode);
}

TEST(GangdMemory, DirectoryAndStoreCannotChangeTheirSize) {
    Gangd gangd;
    auto source = gangd.Source("web", "vm1", 1);
    source->Receive();
    auto destination = gangd.Client();
    destination->Send(DestinationJoinRequest("web", "vm1"));
    EXPECT_EQ(destination->Receive()["op"], "store");
    for (int fd : {source->received, destination->received}) {
        ASSERT_GE(fd, 0);
        int seals = fcntl(fd, F_GET_SEALS);
        EXPECT_EQ(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
                  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        EXPECT_NE(ftruncate(fd, 0), 0);
    }
}

TEST(GangdMemory, StoreIsSharedInTheGangAndFreedWithItsLastMember) {
    Gangd gangd;
    auto join = [&](const char *member) {
        auto client = gangd.Client();
        client->Send(DestinationJoinRequest("web", member));
        EXPECT_EQ(client->Receive()["op"], "store");
        return client;
    };
    auto first = join("vm1"), second = join("vm2");
    ino_t inode = Inode(first->received);
    EXPECT_EQ(inode, Inode(second->received));
    first->Send({{"op", "leave"}, {"result", "completed"}});
    second->Send({{"op", "leave"}, {"result", "failed"}});
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty(); }));
    EXPECT_NE(inode, Inode(join("vm1")->received));
}

// One gang's memory is never mapped by a process of another; nor is a directory
// shared by members whose destinations are different stores.
TEST(GangdMemory, DescriptorNeverGoesToAnotherGangOrStore) {
    std::mt19937_64 rng(TestSeed());
    Gangd gangd({"--barrier-timeout", "0.5", "--max-gangs", "100"});
    constexpr int kGangs = 5, kMembers = 6;
    struct Joined {
        std::string owner;
        std::unique_ptr<RawClient> client;
    };
    std::vector<Joined> joined;
    std::vector<std::pair<int, int>> order;
    for (int g = 0; g < kGangs; g++) {
        for (int m = 0; m < kMembers; m++) {
            order.emplace_back(g, m);
        }
    }
    std::shuffle(order.begin(), order.end(), rng);
    for (auto [g, m] : order) {
        std::string gang = "gang" + std::to_string(g), vm = "vm" + std::to_string(m);
        char store = Below(rng, 2) ? 'a' : 'b'; // the same two stores in all gangs
        joined.push_back({"source " + gang + store, gangd.Source(gang, vm, kMembers, store)});
        auto destination = gangd.Client();
        destination->Send(DestinationJoinRequest(gang, vm));
        joined.push_back({"destination " + gang, std::move(destination)});
        if (Below(rng, 4) == 0) { // some go again
            joined.erase(joined.begin() + static_cast<long>(Below(rng, joined.size())));
        }
    }
    std::map<ino_t, std::string> owners;
    std::map<std::string, std::set<ino_t>> memory;
    for (Joined &j : joined) {
        json grant = j.client->Receive();
        ASSERT_TRUE(grant["op"] == "directory" || grant["op"] == "store") << grant;
        ino_t inode = Inode(j.client->received);
        ASSERT_NE(inode, 0u);
        auto [at, added] = owners.emplace(inode, j.owner);
        EXPECT_EQ(at->second, j.owner);
        EXPECT_TRUE(j.client->Silent(0)); // and no second one
    }
}

TEST(GangdStatus, PagesJoinToAllMembersOnceEach) {
    Gangd gangd;
    std::vector<std::unique_ptr<RawClient>> clients;
    std::set<std::string> names;
    for (int i = 0; i < 70; i++) {
        std::string name = "vm" + std::to_string(i);
        names.insert(name);
        clients.push_back(gangd.Client());
        clients.back()->Send(DestinationJoinRequest(i < 50 ? "big" : "small", name));
        EXPECT_EQ(clients.back()->Receive()["op"], "store");
    }
    clients[0]->Send({{"op", "status"}});
    json page = clients[0]->Receive();
    ASSERT_TRUE(page.contains("next"));
    clients[0]->Send({{"op", "status"}, {"after", page["next"]}});
    EXPECT_EQ(clients[0]->Receive()["gangs"][0]["continued"], true);

    json status = gangd.Status();
    EXPECT_FALSE(status.contains("next"));
    ASSERT_EQ(status["gangs"].size(), 2u);
    std::set<std::string> shown;
    for (const json &gang : status["gangs"]) {
        for (const json &member : gang["members"]) {
            EXPECT_TRUE(shown.insert(member["member"]).second) << member;
        }
    }
    EXPECT_EQ(shown, names);
}

TEST(GangdStatus, ShowsWhatMembersWriteIntoTheirRecords) {
    Gangd gangd;
    auto member = gangd.Source("web", "vm1", 1);
    json grant = member->Receive();
    std::unique_ptr<Directory> directory;
    GANG_OK(Directory::Open(member->received, &directory));
    directory->AddStat(grant["index"], Stat::kReferencedPages, 42);
    directory->SetStat(grant["index"], Stat::kPhase, 999); // nonsense harms nobody
    json shown = gangd.Status()["gangs"][0]["members"][0];
    EXPECT_EQ(shown["referenced-pages"], 42);
    EXPECT_EQ(shown["phase"], "unknown");
    EXPECT_EQ(shown["pid"], getpid());
}

} // namespace
} // namespace gang::test
