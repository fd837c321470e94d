// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gangd's part in the switchover policies: one policy a gang, no all-or-nothing gang
// that is not whole, and a gang that is given up as soon as one of it is gone.

#include "gangd_process.h"

#include "board.h"
#include "switchover.h"
#include "testing.h"

namespace gang::test {
namespace {

std::unique_ptr<RawClient> Join(const Gangd &gangd, const std::string &member, int members,
                                const std::string &policy) {
    auto client = gangd.Client();
    json join = SourceJoinRequest("web", member, members);
    join["board"] = true;
    if (!policy.empty()) {
        join["policy"] = policy;
    }
    client->Send(join);
    return client;
}

// The board that comes before the directory.
std::unique_ptr<Board> TakeBoard(RawClient *client) {
    std::unique_ptr<Board> board;
    json message = client->Receive();
    EXPECT_EQ(message["op"], "board") << message;
    EXPECT_TRUE(Board::Open(client->received, &board).ok());
    EXPECT_EQ(client->Receive()["op"], "directory");
    return board;
}

TEST(GangdPolicy, MembersHaveToNameTheSamePolicy) {
    Gangd gangd;
    auto first = Join(gangd, "vm1", 2, "together");
    for (const char *other : {"", "independent", "all-or-nothing"}) {
        json answer = Join(gangd, "vm2", 2, other)->Receive();
        EXPECT_EQ(answer["code"], "invalid");
        EXPECT_NE(answer["error"].get<std::string>().find("moves by the policy together, not"),
                  std::string::npos)
            << answer;
    }
    EXPECT_EQ(Join(gangd, "vm2", 2, "some day")->Receive()["code"], "incompatible");
    auto second = Join(gangd, "vm2", 2, "together");
    auto board = TakeBoard(first.get());
    EXPECT_NE(TakeBoard(second.get()), nullptr);
    ASSERT_NE(board, nullptr);
    EXPECT_EQ(ReadSwitchover(*board).policy, SwitchoverPolicy::kTogether);
    EXPECT_EQ(gangd.Status()["gangs"][0]["switchover"]["policy"], "together");
}

TEST(GangdPolicy, ABoardHasTheLimitsThatGangdIsConfiguredWith) {
    Gangd gangd({"--ready-timeout", "7", "--stopped-timeout", "0.5"});
    auto only = Join(gangd, "vm1", 1, "all-or-nothing");
    auto board = TakeBoard(only.get());
    ASSERT_NE(board, nullptr);
    const auto &words = board->header().policy;
    EXPECT_EQ(words[kBoardReadyMs].load(), 7000u);
    EXPECT_EQ(words[kBoardStoppedMs].load(), 500u);
    EXPECT_EQ(words[kBoardMembers].load(), 1u);
}

TEST(GangdPolicy, AllOrNothingDoesNotBeginWithoutOneOfItsMembers) {
    Gangd gangd({"--barrier-timeout", "0.4"});
    auto first = Join(gangd, "vm1", 3, "all-or-nothing");
    auto second = Join(gangd, "vm2", 3, "all-or-nothing");
    for (RawClient *client : {first.get(), second.get()}) {
        json answer = client->Receive();
        EXPECT_EQ(answer["code"], "invalid") << answer;
        EXPECT_NE(answer["error"].get<std::string>().find("of its 3 members only 2 came"),
                  std::string::npos)
            << answer;
    }
}

TEST(GangdPolicy, AllOrNothingIsGivenUpWhenAMemberLeavesOrDies) {
    for (bool said : {true, false}) {
        Gangd gangd;
        auto first = Join(gangd, "vm1", 2, "all-or-nothing");
        auto second = Join(gangd, "vm2", 2, "all-or-nothing");
        auto board = TakeBoard(first.get());
        EXPECT_NE(TakeBoard(second.get()), nullptr);
        ASSERT_NE(board, nullptr);
        if (said) {
            second->Send({{"op", "leave"}, {"result", "cancelled"}});
        }
        second->Close();
        using Verdict = GangDecision::Verdict;
        EXPECT_TRUE(
            Soon([&] { return ReadSwitchover(*board).decision.verdict == Verdict::kGivenUp; }));
        EXPECT_EQ(ReadSwitchover(*board).decision.reason,
                  said ? GiveUpReason::kCancelled : GiveUpReason::kDied);
        EXPECT_EQ(gangd.Status()["gangs"][0]["switchover"]["decision"], "given-up");
        // The board of a gang that has ended still says so to whoever has it.
        first->Send({{"op", "leave"}, {"result", "failed"}});
        EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty(); }));
        EXPECT_EQ(ReadSwitchover(*board).decision.verdict, Verdict::kGivenUp);
    }
}

TEST(GangdPolicy, WhoLeavesAfterTheCommitGivesNothingUp) {
    Gangd gangd;
    auto first = Join(gangd, "vm1", 2, "all-or-nothing");
    auto second = Join(gangd, "vm2", 2, "all-or-nothing");
    auto board = TakeBoard(first.get());
    EXPECT_NE(TakeBoard(second.get()), nullptr);
    ASSERT_NE(board, nullptr);
    Switchover a(board.get(), 0, SwitchoverPolicy::kAllOrNothing);
    Switchover b(board.get(), 1, SwitchoverPolicy::kAllOrNothing);
    constexpr uint64_t kNow = 1'000'000'000'000; // ns
    EXPECT_EQ(a.MayLeave(true, kNow), Switchover::Verdict::kWait);
    EXPECT_EQ(b.MayLeave(true, kNow), Switchover::Verdict::kGo);
    second->Send({{"op", "leave"}, {"result", "failed"}});
    EXPECT_TRUE(Soon([&] { return board->state(1) == MemberState::kLeft; }));
    EXPECT_EQ(a.MayLeave(true, kNow), Switchover::Verdict::kGo);
}

} // namespace
} // namespace gang::test
