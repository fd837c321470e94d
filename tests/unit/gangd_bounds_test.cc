// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What gangd takes from its host stays bounded and comes back, and what it does
// when it is itself the one that stops.

#include "gangd_process.h"

#include "directory.h"
#include "testing.h"

namespace gang::test {
namespace {

size_t Descriptors(const Gangd &gangd) {
    std::string path = "/proc/" + std::to_string(gangd.process->pid()) + "/fd";
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
}

// Mappings of shared memory that gangd holds.
size_t Mappings(const Gangd &gangd) {
    std::ifstream maps("/proc/" + std::to_string(gangd.process->pid()) + "/maps");
    size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
        count += line.find("memfd:gang-") != std::string::npos;
    }
    return count;
}

// Invariant 8: the stores of all gangs together never pass their bound.
TEST(GangdBounds, StoresTogetherStayBelowTheirTotal) {
    constexpr uint64_t kSlot = kPageSize + sizeof(SlotMeta);
    Gangd gangd({"--store-total", "6M"}); // 4M for one
    std::vector<std::unique_ptr<RawClient>> members;
    auto slots = [&](const std::string &gang) -> uint64_t {
        members.push_back(gangd.Client());
        members.back()->Send(DestinationJoinRequest(gang, "vm1"));
        return members.back()->Receive().value("slots", uint64_t{0});
    };
    uint64_t first = slots("one"), second = slots("two"), third = slots("three");
    EXPECT_LE(first * kSlot, 4u << 20);
    EXPECT_GT(first * kSlot, 7u << 19);
    EXPECT_LE((first + second) * kSlot, 6u << 20);
    EXPECT_GT(second, 256u);
    EXPECT_EQ(third, kChunkSlots); // a full store only means fewer references
    members[0].reset();            // what a gang had is there for the next
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].size() == 2; }));
    EXPECT_GT(slots("four"), 512u);
}

TEST(GangdBounds, MemoryAndDescriptorsComeBackWhenGangsEnd) {
    Gangd gangd;
    gangd.Status(); // the connections of the start have been let go
    EXPECT_TRUE(Soon([&] { return Mappings(gangd) == 0; }));
    size_t before = Descriptors(gangd);
    {
        std::vector<std::unique_ptr<RawClient>> members;
        for (int i = 0; i < 10; i++) {
            std::string gang = "gang" + std::to_string(i);
            members.push_back(gangd.Source(gang, "vm1", 1));
            EXPECT_EQ(members.back()->Receive()["op"], "directory");
            members.push_back(gangd.Client());
            members.back()->Send(DestinationJoinRequest(gang, "vm1"));
            EXPECT_EQ(members.back()->Receive()["op"], "store");
        }
        EXPECT_GE(Mappings(gangd), 20u); // parts of one may be mapped with other rights
    }
    EXPECT_TRUE(Soon([&] { return Mappings(gangd) == 0 && Descriptors(gangd) <= before; }))
        << Descriptors(gangd) << " descriptors, " << before << " before";
}

TEST(GangdBounds, ClientThatAsksWithoutPauseIsDropped) {
    // So few that the slowest sanitizer on the busiest machine asks more.
    Gangd gangd({"--max-requests", "20"});
    auto client = gangd.Client();
    std::string code;
    for (int i = 0; i < 20000 && code.empty(); i++) {
        client->Send({{"op", "status"}});
        json answer = client->Receive();
        if (answer.value("op", "") != "status") {
            code = answer.value("code", answer.dump());
        }
    }
    EXPECT_EQ(code, "limit");
    EXPECT_TRUE(client->HungUp());
    EXPECT_TRUE(gangd.Serves());
}

TEST(GangdLiveness, MembersThatCameAndDiedAreNotWaitedFor) {
    Gangd gangd({"--barrier-timeout", "600"});
    auto first = gangd.Source("web", "vm1", 3);
    gangd.Source("web", "vm2", 3)->Close(); // joins and dies
    EXPECT_TRUE(Soon([&] {
        json members = gangd.Status()["gangs"][0]["members"];
        return members.size() == 2 && members[1]["state"] == "dead";
    }));
    auto third = gangd.Source("web", "vm3", 3);
    json grant = first->Receive();
    EXPECT_EQ(grant["op"], "directory");
    EXPECT_EQ(grant["joined"], 2);
    EXPECT_EQ(grant["missing"], 1);
    EXPECT_EQ(third->Receive()["op"], "directory");
}

TEST(GangdLiveness, MemberThatComesAgainReplacesWhatItWas) {
    Gangd gangd({"--barrier-timeout", "600"});
    auto first = gangd.Source("web", "vm1", 2);
    gangd.Source("web", "vm2", 2)->Close();
    auto bystander = gangd.Source("web", "vm1", 2); // "exists": still there
    EXPECT_EQ(bystander->Refused(), "exists");
    EXPECT_EQ(first->Receive()["op"], "directory"); // two had come
    auto again = gangd.Source("web", "vm2", 2);
    EXPECT_EQ(again->Receive()["op"], "directory");
    EXPECT_EQ(Inode(again->received), Inode(first->received));
    EXPECT_EQ(gangd.Status()["gangs"][0]["members"].size(), 2u);
}

// A socket that is closed with something unread shows as a reset at the other
// end, before what was said earlier.
TEST(GangdLiveness, LastWordsCountThoughTheMemberHadMoreToRead) {
    Gangd gangd;
    auto first = gangd.Source("web", "vm1", 2), second = gangd.Source("web", "vm2", 2);
    json grant = first->Receive();
    EXPECT_EQ(second->Receive()["op"], "directory");
    std::unique_ptr<Directory> directory;
    GANG_OK(Directory::Open(first->received, &directory));
    gangd.process->Signal(SIGSTOP);
    first->Send({{"op", "scanned"}});
    second->Send({{"op", "scanned"}});
    gangd.process->Signal(SIGCONT);
    EXPECT_EQ(second->Receive()["op"], "start"); // the one of `first` stays unread
    gangd.process->Signal(SIGSTOP);
    first->Send({{"op", "leave"}, {"result", "failed"}});
    first->Close();
    gangd.process->Signal(SIGCONT);
    EXPECT_TRUE(
        Soon([&] { return directory->member_state(grant["index"]) != MemberState::kAlive; }));
    EXPECT_EQ(directory->member_state(grant["index"]), MemberState::kLeft);
}

// Invariant 4: stopping or killing gangd stops no member.
TEST(GangdGone, StoppedGangdHoldsUpNobodyLongerThanTheyAllow) {
    Gangd gangd;
    std::unique_ptr<ControlClient> member, late;
    GANG_OK(ControlClient::Connect(gangd.socket, kSoonMs, &member));
    GANG_OK(member->Hello("test", true, kSoonMs));
    gangd.process->Signal(SIGSTOP);
    auto start = std::chrono::steady_clock::now();
    SourceJoin join;
    join.gang = join.member = "x";
    join.members = 1;
    join.slots = 64;
    join.ram_pages = 64;
    join.channels = 1;
    GANG_OK(member->JoinSource(join, 100)); // fits the socket's buffer
    DirectoryGrant grant;
    bool ready = true;
    GANG_OK(member->PollDirectory(&grant, &ready, 100));
    EXPECT_FALSE(ready);
    GANG_OK(ControlClient::Connect(gangd.socket, 100, &late)); // the backlog takes it
    EXPECT_EQ(late->Hello("test", true, 100).code(), Code::kUnavailable);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));

    gangd.process->Signal(SIGCONT); // and it goes on where it was
    GANG_OK(member->PollDirectory(&grant, &ready, kSoonMs));
    EXPECT_TRUE(ready);
    close(grant.fd);
}

TEST(GangdGone, KilledGangdLeavesMembersTheirMemory) {
    Gangd gangd;
    auto source = gangd.Source("web", "vm1", 1);
    json grant = source->Receive();
    std::unique_ptr<Directory> directory;
    GANG_OK(Directory::Open(source->received, &directory));
    gangd.process->Signal(SIGKILL);
    gangd.process->Wait();
    EXPECT_TRUE(source->HungUp());
    Hash hash = directory->hasher()("abc", 3);
    EXPECT_FALSE(directory->Count(hash));
    EXPECT_TRUE(directory->Count(hash));
    EXPECT_EQ(directory->member_state(grant["index"]), MemberState::kAlive);
}

TEST(GangdLog, LinesHavePrioritiesWhenTheJournalReadsThem) {
    TempDir dir;
    std::ofstream(dir / "gangd.conf").close();
    std::ofstream(dir / "log").close();
    struct stat st;
    ASSERT_EQ(stat((dir / "log").c_str(), &st), 0);
    auto run = [&](const std::string &stream) {
        std::ofstream(dir / "log", std::ios::trunc).close();
        std::vector<std::string> command = {GANGD_PATH, "--config", dir / "gangd.conf", "--socket",
                                            dir / "gangd.sock"};
        Process gangd(command, dir / "out", dir / "log",
                      [&] { setenv("JOURNAL_STREAM", stream.c_str(), 1); });
        EXPECT_TRUE(Soon([&] { return RawClient(dir / "gangd.sock").connected(); }));
        gangd.Signal(SIGTERM);
        EXPECT_EQ(gangd.Wait(), 0);
        return ReadAll(dir / "log");
    };
    std::string journal = run(std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino));
    EXPECT_EQ(journal.rfind("<6>gangd ", 0), 0u) << journal;
    std::string terminal = run("1:1"); // stderr has been sent elsewhere since
    EXPECT_EQ(terminal.find("<6>"), std::string::npos) << terminal;
    EXPECT_NE(terminal.find("info: gangd"), std::string::npos) << terminal;
}

} // namespace
} // namespace gang::test
