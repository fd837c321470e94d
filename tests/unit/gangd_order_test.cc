// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What an operator says of a gang reaches its members' board, before and while it
// moves; who is missing has a name; and nobody says it of another user's gang.

#include <fstream>

#include "board.h"
#include "gangd_process.h"
#include "testing.h"

namespace gang::test {
namespace {

json Set(const Gangd &gangd, const json &what, const std::string &gang = "web") {
    json request = {{"op", "set"}, {"gang", gang}};
    request.update(what);
    auto client = gangd.Client();
    EXPECT_TRUE(client->Send(request));
    return client->Receive();
}

// A member with the gang's board mapped.
struct Member {
    explicit Member(const Gangd &gangd, const std::string &name = "vm1", int members = 1) {
        client = gangd.Client();
        json join = SourceJoinRequest("web", name, members);
        join["board"] = true;
        EXPECT_TRUE(client->Send(join));
        EXPECT_EQ(client->Receive().value("op", ""), "board") << gangd.log();
        Fd fd;
        *fd.out() = client->TakeFd();
        EXPECT_TRUE(Board::Open(fd.get(), &board).ok());
        grant = client->Receive();
        EXPECT_EQ(grant.value("op", ""), "directory");
    }
    std::unique_ptr<RawClient> client;
    std::unique_ptr<Board> board;
    json grant;
};

json GangOf(const Gangd &gangd) {
    json status = gangd.Status();
    return status["gangs"].empty() ? json() : status["gangs"][0];
}

TEST(GangdOrder, IsThatOfTheConfigurationAtFirst) {
    Gangd gangd({"--turn-limit", "1234", "--bulk-members", "3"});
    Member vm(gangd);
    EXPECT_EQ(vm.board->header().turn_ms, 1234u);
    EXPECT_EQ(vm.board->header().bulk_limit, 3u);
    EXPECT_EQ(vm.board->header().budget, 0u);
}

TEST(GangdOrder, ChangesWhileTheGangMoves) {
    Gangd gangd;
    Member vm(gangd);
    EXPECT_EQ(Set(gangd, {{"max-bandwidth", 100000000}})["op"], "set");
    EXPECT_EQ(vm.board->header().budget, 100000000u);
    EXPECT_EQ(vm.board->header().turn_ms, 5000u) << "what was not named stays";
    EXPECT_EQ(Set(gangd, {{"max-bandwidth", 0}, {"bulk-members", 2}, {"turn-limit", 0}})["op"],
              "set");
    EXPECT_EQ(vm.board->header().budget, 0u);
    EXPECT_EQ(GangOf(gangd)["bulk-members"], 2);
    EXPECT_EQ(GangOf(gangd)["turn-limit"], 0);
}

TEST(GangdOrder, WhatAMemberHasSetStaysWhenTheNextComes) {
    Gangd gangd;
    Set(gangd, {{"max-bandwidth", 1000}});
    Member vm(gangd, "vm1", 1);
    EXPECT_EQ(vm.board->header().budget, 1000u);
    vm.board->header().budget = 77;
    EXPECT_EQ(Set(gangd, {{"bulk-members", 1}})["op"], "set");
    EXPECT_EQ(vm.board->header().budget, 77u);
}

TEST(GangdOrder, OfAGangThatWasAnnouncedHoldsFromTheStart) {
    Gangd gangd;
    EXPECT_EQ(Set(gangd, {{"max-bandwidth", 5000}, {"turn-limit", 700}})["op"], "set");
    {
        Member vm(gangd);
        EXPECT_EQ(vm.board->header().budget, 5000u);
        EXPECT_EQ(vm.board->header().turn_ms, 700u);
    }
    ASSERT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty(); }));
    Member next(gangd); // was said of one gang, not of every one of this name
    EXPECT_EQ(next.board->header().budget, 0u);
}

TEST(GangdOrder, BarrierThatTimesOutSaysWhoIsMissing) {
    Gangd gangd({"--barrier-timeout", "0.5"});
    Set(gangd, {{"expect", {"vm1", "vm2", "vm3"}}});
    auto first = gangd.Source("web", "vm1", 3);
    ASSERT_TRUE(Soon([&] { return !GangOf(gangd).is_null(); }));
    json grant = first->Receive();
    EXPECT_EQ(grant["op"], "directory");
    EXPECT_EQ(grant["absent"], "vm2, vm3");
    EXPECT_EQ(GangOf(gangd)["missing"], json({"vm2", "vm3"}));
    EXPECT_NE(gangd.log().find("goes on with 1 of 3 members; missing: vm2, vm3"),
              std::string::npos)
        << gangd.log();
}

TEST(GangdOrder, NonsenseIsRefusedAndChangesNothing) {
    Gangd gangd;
    Member vm(gangd);
    for (const json &what : std::initializer_list<json>{
             {{"max-bandwidth", -1}},
             {{"max-bandwidth", "10M"}},
             {{"max-bandwidth", UINT64_MAX}},
             {{"bulk-members", 129}},
             {{"turn-limit", 60001}},
             {{"max-bandwidth", 5}, {"turn-limit", 1.5}},
             {{"expect", "vm1"}},
             {{"expect", json::array({1})}},
             {{"expect", json::array({"not a name"})}},
             {{"gang", "not a name"}}}) {
        EXPECT_EQ(Set(gangd, what).value("code", ""), "invalid") << what;
    }
    EXPECT_EQ(vm.board->header().budget, 0u);
    EXPECT_TRUE(gangd.Serves());
}

TEST(GangdOrder, AnnouncementsAreBounded) {
    Gangd gangd;
    auto client = gangd.Client();
    std::string code;
    for (int i = 0; i < 300 && code.empty(); i++) {
        ASSERT_TRUE(client->Send({{"op", "set"}, {"gang", "g" + std::to_string(i)}}));
        code = client->Receive().value("code", "");
    }
    EXPECT_EQ(code, "limit");
}

TEST(GangdOrder, OfAnotherUsersGangIsRefused) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody"});
    Member vm(gangd);
    const std::string result = gangd.dir / "result";
    auto set = [&](const char *gang) {
        return AsNobody([&] {
            RawClient client(gangd.socket);
            return client.Hello() &&
                   client.Send({{"op", "set"}, {"gang", gang}, {"max-bandwidth", 1}}) &&
                   client.Receive().value("op", "") == "set";
        });
    };
    EXPECT_EQ(set("web"), 1);
    EXPECT_EQ(vm.board->header().budget, 0u);
    // Nor does an announcement of theirs hold for a gang of ours.
    EXPECT_EQ(set("db"), 0);
    auto client = gangd.Client();
    json join = SourceJoinRequest("db", "vm1", 1);
    join["board"] = true;
    ASSERT_TRUE(client->Send(join));
    ASSERT_EQ(client->Receive()["op"], "board");
    std::unique_ptr<Board> board;
    Fd fd;
    *fd.out() = client->TakeFd();
    GANG_OK(Board::Open(fd.get(), &board));
    EXPECT_EQ(board->header().budget, 0u);
}

TEST(GangdOrder, WhatAnotherUserAnnouncedIsNoPartOfRoots) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody"});
    EXPECT_EQ(AsNobody([&] {
                  RawClient client(gangd.socket);
                  return client.Hello() &&
                         client.Send({{"op", "set"}, {"gang", "web"}, {"max-bandwidth", 1}}) &&
                         client.Receive().value("op", "") == "set";
              }),
              0);
    EXPECT_EQ(Set(gangd, {{"bulk-members", 7}})["op"], "set");
    EXPECT_EQ(Set(gangd, {{"turn-limit", 70}})["op"], "set") << "one's own are merged";
    Member vm(gangd);
    EXPECT_EQ(vm.board->header().budget, 0u);
    EXPECT_EQ(vm.board->header().bulk_limit, 7u);
    EXPECT_EQ(vm.board->header().turn_ms, 70u);
}

} // namespace
} // namespace gang::test
