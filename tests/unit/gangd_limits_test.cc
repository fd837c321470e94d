// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Clients that take what they can get: each gets an error that says which limit
// it is, and the others go on.

#include "gangd_process.h"

#include <algorithm>

#include "testing.h"

namespace gang::test {
namespace {

// A process of a user's own that opens connections, makes its requests, and
// keeps what it got until it is ended.
class Crowd {
  public:
    // `requests`: one for each connection; none: it says hello only.
    Crowd(const Gangd &gangd, bool as_nobody, int connections,
          const std::function<json(int)> &request = {}) {
        int report[2];
        EXPECT_EQ(pipe(report), 0);
        pid_ = fork();
        if (pid_ == 0) {
            if (as_nobody && !BecomeNobody()) {
                _exit(2);
            }
            std::vector<std::unique_ptr<RawClient>> clients;
            json answers = json::array();
            for (int i = 0; i < connections; i++) {
                clients.push_back(std::make_unique<RawClient>(gangd.socket));
                RawClient &client = *clients.back();
                client.Send(
                    {{"op", "hello"}, {"version", 1}, {"layout", LayoutText(LayoutSignature())}});
                json answer = client.Receive();
                if (answer.value("op", "") == "hello" && request) {
                    client.Send(request(i));
                    answer = client.Receive();
                }
                answers.push_back(answer);
            }
            std::string text = answers.dump();
            (void)!write(report[1], text.data(), text.size());
            close(report[1]);
            for (int i = 0; i < 600; i++) {
                usleep(100000);
            }
            _exit(0);
        }
        close(report[1]);
        std::string text;
        char part[4096];
        for (ssize_t n; (n = read(report[0], part, sizeof(part))) > 0;) {
            text.append(part, static_cast<size_t>(n));
        }
        close(report[0]);
        got = json::parse(text, nullptr, false);
        EXPECT_TRUE(got.is_array()) << text;
    }
    ~Crowd() {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
    Crowd(const Crowd &) = delete;
    Crowd &operator=(const Crowd &) = delete;

    // How many were refused with "limit" and a text that names `option`.
    int Refused(const std::string &option) const {
        return static_cast<int>(std::count_if(got.begin(), got.end(), [&](const json &answer) {
            return answer.value("code", "") == "limit" &&
                   answer.value("error", "").find(option) != std::string::npos;
        }));
    }
    int Served(const std::string &op) const {
        return static_cast<int>(std::count_if(got.begin(), got.end(), [&](const json &answer) {
            return answer.value("op", "") == op;
        }));
    }
    json got; // the last answer on each connection

  private:
    pid_t pid_;
};

TEST(GangdLimits, OneProcessCannotTakeTheConnectionsOfOthers) {
    Gangd gangd({"--max-process-clients", "4", "--max-clients", "100"});
    Crowd greedy(gangd, false, 10);
    EXPECT_EQ(greedy.Served("hello"), 4);
    EXPECT_EQ(greedy.Refused("max-process-clients"), 6);
    EXPECT_TRUE(gangd.Serves()); // this process is another
    Crowd modest(gangd, false, 3);
    EXPECT_EQ(modest.Served("hello"), 3);
}

TEST(GangdLimits, OneUserCannotTakeTheConnectionsOfOthers) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody", "--max-clients", "8"}); // a quarter is for others
    Crowd one(gangd, true, 4), two(gangd, true, 4);
    EXPECT_EQ(one.Served("hello"), 4);
    EXPECT_EQ(two.Served("hello"), 2);
    EXPECT_EQ(two.Refused("max-user-clients"), 2);
    EXPECT_TRUE(gangd.Serves());
}

TEST(GangdLimits, OneUserCannotTakeTheGangsOfOthers) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody", "--max-gangs", "4"});
    Crowd nobody(gangd, true, 6,
                 [](int i) { return DestinationJoinRequest("gang" + std::to_string(i), "vm1"); });
    EXPECT_EQ(nobody.Served("store"), 3);
    EXPECT_EQ(nobody.Refused("max-user-gangs"), 3);
    auto other = gangd.Source("web", "vm1", 1);
    EXPECT_EQ(other->Receive()["op"], "directory");
    auto full = gangd.Source("db", "vm1", 1);
    EXPECT_EQ(full->Refused(), "limit");
    EXPECT_NE(full->why.find("max-gangs"), std::string::npos) << full->why;
}

TEST(GangdLimits, ClaimsOfRamAreBoundedForAVmAProcessAndTheHost) {
    Gangd gangd({"--max-ram", "1G", "--max-total-ram", "2G"});
    auto claim = [](uint64_t megabytes) {
        return [megabytes](int i) {
            json join = SourceJoinRequest(
                "gang" + std::to_string(i) + "-" + std::to_string(megabytes), "vm1", 1);
            join["ram-pages"] = megabytes * 256;
            return join;
        };
    };
    Crowd huge(gangd, false, 1, claim(uint64_t{1} << 30));
    EXPECT_EQ(huge.Refused("max-ram"), 1);
    Crowd many(gangd, false, 4, claim(512));
    EXPECT_EQ(many.Served("directory"), 2);
    EXPECT_EQ(many.Refused("max-ram"), 2); // of one process as of one VM
    Crowd next(gangd, false, 1, claim(900));
    EXPECT_EQ(next.Served("directory"), 1);
    Crowd last(gangd, false, 1, claim(200));
    EXPECT_EQ(last.Refused("max-total-ram"), 1);
    Crowd fits(gangd, false, 1, claim(100));
    EXPECT_EQ(fits.Served("directory"), 1);
}

TEST(GangdLimits, OneUserCannotTakeTheRamOfOthers) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody", "--max-ram", "1G", "--max-total-ram", "4G"});
    auto claim = [](const std::string &gang) {
        return [gang](int) {
            json join = SourceJoinRequest(gang, "vm1", 1);
            join["ram-pages"] = 1 << 18;
            return join;
        };
    };
    std::vector<std::unique_ptr<Crowd>> crowd;
    for (int i = 0; i < 4; i++) { // a process has the limit of a VM
        crowd.push_back(
            std::make_unique<Crowd>(gangd, true, 1, claim("gang" + std::to_string(i))));
        EXPECT_EQ(crowd.back()->Served("directory"), i < 3) << crowd.back()->got;
        EXPECT_EQ(crowd.back()->Refused("three quarters of max-total-ram"), i == 3);
    }
    Crowd roots(gangd, false, 1, claim("web"));
    EXPECT_EQ(roots.Served("directory"), 1) << roots.got;
    Crowd more(gangd, false, 1, claim("db"));
    EXPECT_EQ(more.Refused("max-total-ram"), 1) << more.got;
}

TEST(GangdLimits, OneUserCannotTakeTheStoresOfOthers) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody", "--store-size", "4M", "--store-total", "8M"});
    auto join = [](int i) { return DestinationJoinRequest("gang" + std::to_string(i), "vm1"); };
    Crowd nobody(gangd, true, 2, join);
    ASSERT_EQ(nobody.Served("store"), 2) << nobody.got;
    const uint64_t most = (uint64_t{6} << 20) / kPageSize;
    const uint64_t first = nobody.got[0]["slots"], second = nobody.got[1]["slots"];
    EXPECT_LE(first + second, most);
    EXPECT_GT(first, most / 2);
    EXPECT_GT(second, most / 4);
    Crowd roots(gangd, false, 1, [](int) { return DestinationJoinRequest("web", "vm1"); });
    ASSERT_EQ(roots.Served("store"), 1) << roots.got;
    EXPECT_GE(roots.got[0]["slots"].get<uint64_t>(), (uint64_t{2} << 20) / kPageSize * 9 / 10);
}

// The kernel's figure in kB.
uint64_t AddressSpace(const Gangd &gangd) {
    const std::string status =
        ReadAll("/proc/" + std::to_string(gangd.process->pid()) + "/status");
    const size_t at = status.find("VmSize:");
    return at == std::string::npos ? 0 : std::stoull(status.substr(at + 7));
}

// A kept store may be larger than the gang, not larger than this host could fill; and
// gangd has no mapping of the pages that members mirror.
TEST(GangdLimits, AddressSpaceThatAStoreTakesIsBounded) {
    Gangd gangd({"--max-ram", "8G", "--max-total-ram", "8G"});
    json join = SourceJoinRequest("web", "vm1", 1);
    join["filled"] = 1;
    join["slots"] = UINT32_MAX;
    auto greedy = gangd.Client();
    ASSERT_TRUE(greedy->Send(join));
    EXPECT_EQ(greedy->Refused(), "limit");
    EXPECT_NE(greedy->why.find("max-total-ram"), std::string::npos) << greedy->why;

    const uint64_t before = AddressSpace(gangd);
    join["slots"] = uint64_t{8} << 18; // 8 GiB
    auto modest = gangd.Client();
    ASSERT_TRUE(modest->Send(join));
    EXPECT_EQ(modest->Receive().value("op", ""), "directory");
    const uint64_t after = AddressSpace(gangd);
    EXPECT_GT(before, 0u);
    EXPECT_LT(after, before + (uint64_t{1} << 20)) << "kB";
}

TEST(GangdLimits, TenThousandMembersAreAnErrorAndNoOthersAreAdmittedThanAnnounced) {
    Gangd gangd;
    auto bystander = gangd.Source("web", "vm1", 2);
    auto boaster = gangd.Source("db", "vm1", 10000);
    EXPECT_EQ(boaster->Refused(), "invalid");
    EXPECT_NE(boaster->why.find("1 to 128"), std::string::npos) << boaster->why;
    auto second = gangd.Source("web", "vm2", 2);
    EXPECT_EQ(bystander->Receive()["op"], "directory");
    EXPECT_EQ(second->Receive()["op"], "directory");
    auto intruder = gangd.Source("web", "vm3", 2);
    EXPECT_EQ(intruder->Refused(), "limit");
    EXPECT_LT(intruder->received, 0);
    second->Close(); // who comes again in its place is none
    EXPECT_TRUE(Soon(
        [&] { return gangd.Status().dump().find("\"state\":\"dead\"") != std::string::npos; }));
    EXPECT_EQ(gangd.Source("web", "vm2", 2)->Receive()["op"], "directory");
}

// Each store takes a directory, also after the member that named it has gone.
TEST(GangdLimits, StoresOfAGangAreBounded) {
    Gangd gangd;
    auto stays = gangd.Source("web", "vm0", 100);
    int refused = 0;
    for (int i = 1; i < 20; i++) {
        auto client = gangd.Client();
        json join = SourceJoinRequest("web", "vm" + std::to_string(i), 100);
        join["store"] = std::string(30, 'b') + std::to_string(10 + i);
        client->Send(join);
        if (json answer = client->Receive(i < 16 ? 0 : kSoonMs); answer.is_object()) {
            EXPECT_EQ(answer["code"], "limit") << answer;
            refused++;
        }
        client->Close();
    }
    EXPECT_EQ(refused, 4);
}

// Nor is there room for more when one name comes again and again.
TEST(GangdLimits, StoresOfAGangAreBoundedForANameThatComesAgain) {
    Gangd gangd;
    auto stays = gangd.Source("web", "vm0", 2);
    int served = 0, refused = 0;
    for (int i = 1; i < 20; i++) {
        auto client = gangd.Client();
        json join = SourceJoinRequest("web", "vm1", 2);
        join["store"] = std::string(30, 'b') + std::to_string(10 + i);
        client->Send(join);
        const json answer = client->Receive();
        served += answer.value("op", "") == "directory";
        refused += answer.value("code", "") == "limit";
        client->Send({{"op", "leave"}, {"result", "failed"}});
    }
    EXPECT_EQ(served, 15);
    EXPECT_EQ(refused, 4);
}

TEST(GangdLimits, SlowClientsAreToldAndDroppedWhileMembersMayBeSilent) {
    Gangd gangd({"--hello-timeout", "2.5", "--idle-timeout", "2.5"});
    auto member = gangd.Source("web", "vm1", 2);
    RawClient silent(gangd.socket), idle(gangd.socket);
    EXPECT_TRUE(idle.Hello());
    EXPECT_EQ(silent.Refused(), "limit"); // said no hello
    EXPECT_NE(silent.why.find("hello-timeout"), std::string::npos) << silent.why;
    EXPECT_TRUE(silent.HungUp());
    EXPECT_EQ(idle.Refused(), "limit");
    EXPECT_NE(idle.why.find("idle-timeout"), std::string::npos) << idle.why;
    EXPECT_TRUE(idle.HungUp());
    auto second = gangd.Source("web", "vm2", 2); // the first waited as long as they
    EXPECT_EQ(member->Receive()["op"], "directory");
    EXPECT_EQ(second->Receive()["op"], "directory");
}

TEST(GangdLimits, WhoHasLeftMayNotBeSilentAsAMember) {
    Gangd gangd({"--idle-timeout", "1"});
    auto stays = gangd.Client(), leaves = gangd.Client();
    ASSERT_TRUE(stays->Send(DestinationJoinRequest("web", "vm1")));
    ASSERT_TRUE(leaves->Send(DestinationJoinRequest("web", "vm2")));
    EXPECT_EQ(stays->Receive()["op"], "store");
    EXPECT_EQ(leaves->Receive()["op"], "store");
    ASSERT_TRUE(leaves->Send({{"op", "leave"}, {"result", "completed"}}));
    EXPECT_EQ(leaves->Refused(), "limit");
    EXPECT_NE(leaves->why.find("idle-timeout"), std::string::npos) << leaves->why;
    EXPECT_TRUE(leaves->HungUp());
    EXPECT_TRUE(stays->Silent());
}

TEST(GangdLimits, ClientThatKnocksWithoutPauseFillsNoLogAndKeepsNobodyOut) {
    Gangd gangd({"--max-process-clients", "1"});
    std::unique_ptr<RawClient> in;
    ASSERT_TRUE(Soon([&] { // once the connection that found gangd ready has gone
        in = std::make_unique<RawClient>(gangd.socket);
        return in->Hello();
    }));
    constexpr int kKnocks = 1500;
    for (int i = 0; i < kKnocks; i++) {
        RawClient again(gangd.socket);
        if (i % 100 == 0) {
            EXPECT_EQ(again.Refused(), "limit");
            Crowd other(gangd, false, 1);
            EXPECT_EQ(other.Served("hello"), 1);
        }
    }
    in->Send({{"op", "status"}});
    EXPECT_EQ(in->Receive()["op"], "status");
    std::string log = gangd.log();
    EXPECT_LT(std::count(log.begin(), log.end(), '\n'), kKnocks);
}

} // namespace
} // namespace gang::test
