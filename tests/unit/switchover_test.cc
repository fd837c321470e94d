// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The switchover policies' words on the board, by one thread, and by processes that
// end at any moment.

#include "switchover.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <ctime>

#include "testing.h"

namespace gang {
namespace {

using test::Fd;
using Verdict = Switchover::Verdict;
constexpr uint64_t kMs = 1000 * 1000;
constexpr uint64_t kStart = 1000 * 1000 * kMs;

struct Sample {
    Sample(SwitchoverPolicy policy, uint32_t members, uint32_t come) {
        Make(policy, members, come);
    }
    void Make(SwitchoverPolicy policy, uint32_t members, uint32_t come) {
        GANG_OK(Board::Create(fd.out()));
        GANG_OK(Board::Open(fd.get(), &board));
        InitSwitchover(board.get(), policy, members, 5000, 1000);
        for (uint32_t i = 0; i < come; i++) {
            uint32_t index = 0;
            GANG_OK(board->AddMember(100 + i, &index));
            member.push_back(std::make_unique<Switchover>(board.get(), index, policy));
        }
    }
    // Those who are alive go on doing so.
    void Beat() {
        for (uint32_t i = 0; i < member.size(); i++) {
            board->record(i).heartbeat.fetch_add(1);
        }
    }
    Fd fd;
    std::unique_ptr<Board> board;
    std::vector<std::unique_ptr<Switchover>> member;
};

TEST(Switchover, TogetherNobodyStopsBeforeAllAreReady) {
    Sample s(SwitchoverPolicy::kTogether, 3, 3);
    uint64_t now = kStart;
    EXPECT_EQ(s.member[0]->MayStop(true, now), Verdict::kWait);
    EXPECT_EQ(s.member[1]->MayStop(true, now), Verdict::kWait);
    for (int i = 0; i < 40; i++) {
        now += 100 * kMs;
        s.Beat();
        EXPECT_EQ(s.member[0]->MayStop(true, now), Verdict::kWait);
        EXPECT_EQ(s.member[2]->MayStop(false, now), Verdict::kWait);
        EXPECT_EQ(s.member[1]->MustStop(now), Verdict::kWait);
    }
    EXPECT_EQ(s.member[2]->MayStop(true, now), Verdict::kWait) << "a time has been set";
    EXPECT_EQ(s.member[0]->MustStop(now + kGoLeadNs - kMs), Verdict::kWait);
    now += kGoLeadNs;
    for (auto &m : s.member) {
        EXPECT_EQ(m->MustStop(now), Verdict::kGo);
        m->Stopped(now += 2 * kMs);
    }
    const SwitchoverFigures f = ReadSwitchover(*s.board);
    EXPECT_EQ(f.policy, SwitchoverPolicy::kTogether);
    EXPECT_EQ(f.stopped, 3u);
    EXPECT_EQ(f.late, 0u);
    EXPECT_EQ(f.skew_ns, 4 * kMs);
    for (auto &m : s.member) {
        EXPECT_EQ(m->MayLeave(false, now), Verdict::kGo) << "nobody waits with its VM stopped";
    }
}

TEST(Switchover, TogetherWhoWritesTooMuchAgainIsNotReady) {
    Sample s(SwitchoverPolicy::kTogether, 2, 2);
    s.member[0]->MayStop(true, kStart);
    s.member[0]->MayStop(false, kStart);
    s.member[1]->MayStop(true, kStart);
    EXPECT_EQ(s.member[1]->MustStop(kStart + kMs + kGoLeadNs), Verdict::kWait);
    s.member[0]->MayStop(true, kStart + kMs);
    // Now it is too late to write too much.
    EXPECT_EQ(s.member[0]->MayStop(false, kStart + 2 * kMs), Verdict::kWait);
    EXPECT_EQ(s.member[0]->MayStop(false, kStart + kMs + kGoLeadNs), Verdict::kGo);
    EXPECT_EQ(s.member[1]->MustStop(kStart + kMs + kGoLeadNs), Verdict::kGo);
}

TEST(Switchover, TogetherWhoIsNotReadyInTimeIsNotWaitedForAndIsReported) {
    Sample s(SwitchoverPolicy::kTogether, 2, 2);
    uint64_t now = kStart;
    EXPECT_EQ(s.member[0]->MayStop(true, now), Verdict::kWait);
    for (int i = 0; i < 50; i++) {
        s.Beat();
        now += 100 * kMs;
        EXPECT_EQ(s.member[0]->MustStop(now), Verdict::kWait);
    }
    EXPECT_EQ(s.member[0]->MayStop(true, now), Verdict::kWait);
    now += kGoLeadNs;
    EXPECT_EQ(s.member[0]->MayStop(true, now), Verdict::kGo);
    s.member[0]->Stopped(now);
    EXPECT_EQ(s.member[1]->MayStop(false, now), Verdict::kWait);
    now += 700 * kMs;
    EXPECT_EQ(s.member[1]->MayStop(true, now), Verdict::kGo) << "when it can";
    s.member[1]->Stopped(now);
    const SwitchoverFigures f = ReadSwitchover(*s.board);
    EXPECT_EQ(f.stopped, 2u);
    EXPECT_EQ(f.late, 1u);
    EXPECT_EQ(f.skew_ns, 0u) << "the late one is told apart";
    EXPECT_TRUE(s.member[1]->late());
}

TEST(Switchover, Invariant4_TogetherNobodyWaitsForTheDead) {
    Sample s(SwitchoverPolicy::kTogether, 3, 3);
    EXPECT_EQ(s.member[0]->MayStop(true, kStart), Verdict::kWait);
    EXPECT_EQ(s.member[1]->MayStop(true, kStart), Verdict::kWait);
    EXPECT_EQ(s.board->header().policy[kBoardGo].load(), 0u);
    s.board->SetState(2, MemberState::kDead);
    EXPECT_EQ(s.member[1]->MayStop(true, kStart), Verdict::kWait);
    EXPECT_EQ(s.member[0]->MustStop(kStart + kGoLeadNs), Verdict::kGo);
    EXPECT_EQ(s.member[1]->MustStop(kStart + kGoLeadNs), Verdict::kGo);
}

TEST(Switchover, Invariant4_NobodyWaitsForOneWhoseHeartStandsStill) {
    for (SwitchoverPolicy policy : {SwitchoverPolicy::kTogether, SwitchoverPolicy::kAllOrNothing}) {
        Sample s(policy, 3, 3);
        InitSwitchover(s.board.get(), policy, 3, kMaxWaitMs, 1000);
        Switchover a(s.board.get(), 0, policy), b(s.board.get(), 1, policy);
        auto &words = s.board->header().policy;
        uint64_t now = kStart;
        for (; now < kStart + kSilentMs * kMs; now += 100 * kMs) {
            ASSERT_EQ(a.MayStop(true, now), Verdict::kWait);
            ASSERT_EQ(b.MayStop(true, now), Verdict::kWait);
            ASSERT_EQ(words[kBoardGo].load(), 0u);
            ASSERT_EQ(words[kBoardDecision].load(), 0u);
        }
        a.MayStop(true, now);
        b.MayStop(true, now);
        if (policy == SwitchoverPolicy::kTogether) {
            EXPECT_EQ(a.MustStop(now + kGoLeadNs), Verdict::kGo);
            EXPECT_EQ(b.MustStop(now + kGoLeadNs), Verdict::kGo);
        } else {
            EXPECT_EQ(b.MustStop(now), Verdict::kGivenUp);
            EXPECT_NE(b.Why().find("member 2 (pid 102) does nothing"), std::string::npos);
        }
    }
}

void StopAll(Sample *s, uint64_t *now) {
    for (auto &m : s->member) {
        ASSERT_EQ(m->MayStop(true, *now), Verdict::kWait);
    }
    *now += kGoLeadNs;
    for (auto &m : s->member) {
        ASSERT_EQ(m->MustStop(*now), Verdict::kGo);
        m->Stopped(*now);
    }
}

TEST(Switchover, AllOrNothingNobodyLeavesBeforeAllArePrepared) {
    Sample s(SwitchoverPolicy::kAllOrNothing, 3, 3);
    uint64_t now = kStart;
    StopAll(&s, &now);
    EXPECT_EQ(s.member[0]->MayLeave(true, now), Verdict::kWait);
    EXPECT_EQ(s.member[1]->MayLeave(true, now), Verdict::kWait);
    EXPECT_EQ(s.member[2]->MayLeave(false, now), Verdict::kWait);
    EXPECT_EQ(s.member[0]->MayLeave(true, now), Verdict::kWait);
    EXPECT_EQ(s.member[2]->MayLeave(true, now), Verdict::kGo);
    EXPECT_EQ(s.member[0]->MayLeave(true, now), Verdict::kGo);
    EXPECT_FALSE(s.member[1]->GiveUp(GiveUpReason::kCancelled)) << "it is committed";
    s.board->SetState(0, MemberState::kLeft);
    s.board->SetState(2, MemberState::kDead);
    EXPECT_EQ(s.member[1]->MayLeave(true, now + 3600 * 1000 * kMs), Verdict::kGo);
}

TEST(Switchover, AllOrNothingAnyFailureBeforeTheCommitGivesAllUp) {
    struct {
        const char *why;
        void (*fail)(Sample *s);
    } const cases[] = {
        {"died", [](Sample *s) { s->board->SetState(1, MemberState::kDead); }},
        {"failed", [](Sample *s) { s->board->SetState(1, MemberState::kLeft); }},
        {"failed", [](Sample *s) { s->member[1]->GiveUp(GiveUpReason::kFailed); }},
        {"cancelled", [](Sample *s) { s->member[1]->GiveUp(GiveUpReason::kCancelled); }},
        {"died", [](Sample *s) { s->board->SetState(1, static_cast<MemberState>(77)); }},
    };
    for (const auto &c : cases) {
        for (int when = 0; when < 3; when++) {
            Sample s(SwitchoverPolicy::kAllOrNothing, 3, 3);
            uint64_t now = kStart;
            if (when == 2) {
                StopAll(&s, &now);
                EXPECT_EQ(s.member[0]->MayLeave(true, now), Verdict::kWait);
                EXPECT_EQ(s.member[2]->MayLeave(true, now), Verdict::kWait);
            } else if (when == 1) {
                EXPECT_EQ(s.member[0]->MayStop(true, now), Verdict::kWait);
            }
            c.fail(&s);
            EXPECT_EQ(s.member[0]->MustStop(now), Verdict::kGivenUp) << c.why << when;
            EXPECT_NE(s.member[0]->Why().find(c.why), std::string::npos) << s.member[0]->Why();
            EXPECT_EQ(s.member[2]->MayStop(true, now), Verdict::kGivenUp);
            EXPECT_EQ(s.member[2]->MayLeave(true, now), Verdict::kGivenUp);
            EXPECT_EQ(s.member[1]->MayLeave(true, now), Verdict::kGivenUp);
        }
    }
}

TEST(Switchover, AllOrNothingAMemberThatHasNotComeIsNotPrepared) {
    Sample s(SwitchoverPolicy::kAllOrNothing, 3, 2);
    uint64_t now = kStart;
    for (int i = 0; i < 50; i++, now += 100 * kMs) {
        for (auto &m : s.member) {
            ASSERT_EQ(m->MayStop(true, now), Verdict::kWait);
        }
    }
    EXPECT_EQ(s.member[0]->MayStop(true, now), Verdict::kGivenUp);
    EXPECT_EQ(s.member[0]->MayLeave(true, now), Verdict::kGivenUp);
    EXPECT_NE(s.member[0]->Why().find("in time"), std::string::npos);

    Sample t(SwitchoverPolicy::kAllOrNothing, 0, 1); // a board that says nothing
    EXPECT_EQ(t.member[0]->MayLeave(true, kStart), Verdict::kWait);
    EXPECT_EQ(t.member[0]->MayLeave(true, kStart + 1000 * kMs), Verdict::kGivenUp);
}

TEST(Switchover, AllOrNothingNobodyStandsStillForLongerThanTheLimit) {
    Sample s(SwitchoverPolicy::kAllOrNothing, 2, 2);
    uint64_t now = kStart;
    StopAll(&s, &now);
    EXPECT_EQ(s.member[0]->MayLeave(true, now), Verdict::kWait);
    EXPECT_EQ(s.member[0]->MayLeave(true, now + 999 * kMs), Verdict::kWait);
    EXPECT_EQ(s.member[0]->MayLeave(true, now + 1000 * kMs), Verdict::kGivenUp);
    EXPECT_EQ(s.member[1]->MayLeave(true, now + 1000 * kMs), Verdict::kGivenUp);
}

// QEMU's watcher and its migration thread ask at the same time; each has read the clock
// before it waits for the lock.
TEST(Switchover, AllOrNothingIsNotGivenUpByAThreadThatComesWithAnEarlierClock) {
    for (uint64_t earlier : {uint64_t{1}, uint64_t{1000}, 3 * kMs}) {
        for (bool stopped : {false, true}) {
            Sample s(SwitchoverPolicy::kAllOrNothing, 2, 2);
            uint64_t now = kStart; // the start of a millisecond
            if (stopped) {
                StopAll(&s, &now);
            }
            const auto call = [&](uint64_t at) {
                return stopped ? s.member[0]->MayLeave(false, at) : s.member[0]->MustStop(at);
            };
            for (int i = 0; i < 3; i++, now += 50 * kMs) {
                s.Beat();
                ASSERT_EQ(call(now), Verdict::kWait);
                ASSERT_EQ(call(now - earlier), Verdict::kWait) << s.member[0]->Why();
            }
            if (!stopped) {
                ASSERT_EQ(s.member[0]->MayStop(true, now), Verdict::kWait);
                ASSERT_EQ(s.member[0]->MayStop(true, now - earlier), Verdict::kWait);
            }
        }
    }
}

// Killed, and gangd too: nothing on the board says so but its heart.
TEST(Switchover, AllOrNothingNobodyLeavesWithoutOneThatHasDiedPrepared) {
    for (bool goes_on : {true, false}) {
        Sample s(SwitchoverPolicy::kAllOrNothing, 3, 3);
        InitSwitchover(s.board.get(), SwitchoverPolicy::kAllOrNothing, 3, 5000, 20000);
        for (uint32_t i = 0; i < 3; i++) { // with that limit
            s.member[i] =
                std::make_unique<Switchover>(s.board.get(), i, SwitchoverPolicy::kAllOrNothing);
        }
        uint64_t now = kStart;
        StopAll(&s, &now);
        EXPECT_EQ(s.member[0]->MayLeave(true, now), Verdict::kWait); // its last
        for (int i = 0; i < 100; i++, now += 15 * kMs) {
            ASSERT_EQ(s.member[1]->MayLeave(true, now), Verdict::kWait);
            ASSERT_EQ(s.member[2]->MayLeave(false, now), Verdict::kWait);
        }
        const uint64_t all = now + 8000 * kMs;
        for (; now < all; now += 15 * kMs) {
            ASSERT_EQ(s.member[1]->MayLeave(true, now), Verdict::kWait);
            ASSERT_EQ(s.member[2]->MayLeave(true, now), Verdict::kWait);
        }
        if (goes_on) { // was only stopped
            EXPECT_EQ(s.member[0]->MayLeave(true, now), Verdict::kGo);
            EXPECT_EQ(s.member[1]->MayLeave(true, now), Verdict::kGo);
            EXPECT_EQ(s.member[2]->MayLeave(true, now), Verdict::kGo);
            continue;
        }
        for (Verdict v = Verdict::kWait; v == Verdict::kWait; now += 15 * kMs) {
            ASSERT_LT(now, all + 1000 * kMs);
            v = s.member[1]->MayLeave(true, now);
            ASSERT_NE(v, Verdict::kGo);
            s.member[2]->MayLeave(true, now);
        }
        EXPECT_NE(s.member[1]->Why().find("member 0 (pid 100) does nothing"), std::string::npos)
            << s.member[1]->Why();
    }
}

// Whoever was ready last has set the time with a clock it has read after ours.
TEST(Switchover, NobodyStopsEarlyWhoReadItsClockBeforeTheTimeWasSet) {
    Sample s(SwitchoverPolicy::kTogether, 2, 2);
    s.member[0]->MayStop(true, kStart);
    s.member[1]->MayStop(true, kStart + 30 * kMs); // sets it
    EXPECT_EQ(s.member[0]->MustStop(kStart + 30 * kMs - 1), Verdict::kWait);
    EXPECT_EQ(s.member[0]->MustStop(kStart + kMs), Verdict::kWait);
    EXPECT_EQ(s.member[0]->MustStop(kStart + 30 * kMs + kGoLeadNs), Verdict::kGo);
}

TEST(Switchover, Invariant5_NonsenseOnTheBoardHoldsNobodyUp) {
    Sample s(SwitchoverPolicy::kTogether, 2, 2);
    EXPECT_EQ(s.member[0]->MayStop(true, kStart), Verdict::kWait);
    s.board->header().policy[kBoardGo].store(UINT64_MAX);
    EXPECT_EQ(s.member[0]->MustStop(kStart), Verdict::kGo);
    Sample t(SwitchoverPolicy::kAllOrNothing, 2, 2);
    t.board->header().policy[kBoardDecision].store(0x7777777777777777);
    EXPECT_EQ(t.member[0]->MayLeave(true, kStart), Verdict::kGivenUp);
    EXPECT_NE(t.member[0]->Why(), "");
    EXPECT_TRUE(t.member[0]->GiveUp(GiveUpReason::kCancelled));
    Sample u(SwitchoverPolicy::kTogether, 2, 2);
    u.board->header().policy[kBoardReadyMs].store(UINT64_MAX);
    Switchover bounded(u.board.get(), 0, SwitchoverPolicy::kTogether);
    bounded.MayStop(true, kStart);
    u.board->record(1).heartbeat.fetch_add(1);
    bounded.MayStop(true, kStart + kMaxWaitMs * kMs);
    EXPECT_EQ(bounded.MustStop(kStart + kMaxWaitMs * kMs + kGoLeadNs), Verdict::kGo);
}

TEST(Switchover, Invariant5_NoWordOnTheBoardStopsAVmThatHasNeverBeenReady) {
    for (SwitchoverPolicy policy : {SwitchoverPolicy::kTogether, SwitchoverPolicy::kAllOrNothing}) {
        for (uint64_t go : {uint64_t{1}, kStart | 1, kStart & ~uint64_t{1}, UINT64_MAX}) {
            Sample s(policy, 2, 2);
            s.board->header().policy[kBoardGo].store(go);
            s.board->record(0).policy[kMemberStep].store(
                static_cast<uint64_t>(SwitchoverStep::kReady));
            EXPECT_EQ(s.member[0]->MustStop(kStart), Verdict::kWait) << go;
            EXPECT_EQ(s.member[0]->MayStop(false, kStart + 2 * kGoLeadNs), Verdict::kWait) << go;
            EXPECT_EQ(s.member[0]->MustStop(kStart + 5000 * kMs), Verdict::kWait) << go;
            // Near its end it does not wait for ever for those who say they have stopped.
            EXPECT_EQ(s.member[0]->MayStop(true, kStart + 5000 * kMs), Verdict::kGo) << go;
            EXPECT_TRUE(s.member[0]->late());
        }
    }
}

TEST(Switchover, WhoSleptThroughTheGoStopsWhenItIsNear) {
    Sample s(SwitchoverPolicy::kTogether, 2, 2);
    InitSwitchover(s.board.get(), SwitchoverPolicy::kTogether, 2, kMaxWaitMs, 1000);
    Switchover awake(s.board.get(), 0, SwitchoverPolicy::kTogether);
    Switchover asleep(s.board.get(), 1, SwitchoverPolicy::kTogether);
    uint64_t now = kStart;
    for (; now <= kStart + kSilentMs * kMs; now += 100 * kMs) {
        awake.MayStop(true, now);
    }
    now += kGoLeadNs;
    EXPECT_EQ(awake.MustStop(now), Verdict::kGo);
    EXPECT_EQ(asleep.MustStop(now), Verdict::kWait) << "its RAM is unsent";
    EXPECT_EQ(asleep.MayStop(false, now), Verdict::kWait);
    EXPECT_EQ(asleep.MayStop(true, now), Verdict::kGo);
    EXPECT_TRUE(asleep.late());
}

TEST(Switchover, Invariant5_AGoThatIsTakenBackAgainAndAgainHoldsNobody) {
    Sample s(SwitchoverPolicy::kTogether, 2, 2);
    uint64_t now = kStart;
    Verdict verdict = Verdict::kWait;
    for (; now < kStart + 6000 * kMs && verdict == Verdict::kWait; now += 50 * kMs) {
        s.Beat();
        verdict = s.member[0]->MayStop(true, now);
        s.board->header().policy[kBoardGo].store(0);
    }
    EXPECT_EQ(verdict, Verdict::kGo);
    EXPECT_GE(now, kStart + 5000 * kMs);
}

TEST(Switchover, Invariant5_ACommitBeforeThisMemberIsPreparedIsNone) {
    Sample s(SwitchoverPolicy::kAllOrNothing, 2, 2);
    s.board->header().policy[kBoardDecision].store(1);
    EXPECT_TRUE(s.member[0]->GiveUp(GiveUpReason::kCancelled)) << "it can still be cancelled";
    EXPECT_EQ(s.member[0]->MustStop(kStart), Verdict::kGivenUp);
    EXPECT_EQ(s.member[0]->MayLeave(true, kStart), Verdict::kGivenUp);

    Sample t(SwitchoverPolicy::kAllOrNothing, 2, 2);
    uint64_t now = kStart;
    StopAll(&t, &now);
    EXPECT_EQ(t.member[1]->MayLeave(true, now), Verdict::kWait);
    t.board->record(0).policy[kMemberStep].store(static_cast<uint64_t>(SwitchoverStep::kPrepared));
    EXPECT_EQ(t.member[0]->MayLeave(false, now), Verdict::kWait) << "not by its record alone";
    EXPECT_EQ(t.member[0]->MayLeave(true, now), Verdict::kGo);
}

TEST(Switchover, Invariant5_NobodyStandsStillForLongerThanGangdLetsAnybodyAskFor) {
    Sample s(SwitchoverPolicy::kAllOrNothing, 2, 2);
    s.board->header().policy[kBoardStoppedMs].store(UINT64_MAX);
    Switchover a(s.board.get(), 0, SwitchoverPolicy::kAllOrNothing);
    EXPECT_EQ(a.MayLeave(true, kStart), Verdict::kWait);
    s.Beat();
    EXPECT_EQ(a.MayLeave(true, kStart + 3600 * 1000 * kMs), Verdict::kGivenUp);
}

uint64_t Now() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000 * kMs + static_cast<uint64_t>(t.tv_nsec);
}

// A member's process: 1 it leaves, 2 it does not.
constexpr int kLeaves = 1, kStays = 2;

int Live(int fd, uint32_t index, SwitchoverPolicy policy, uint64_t seed) {
    std::unique_ptr<Board> board;
    if (!Board::Open(fd, &board).ok()) {
        return 3;
    }
    test::Rng rng(seed);
    Switchover s(board.get(), index, policy);
    const auto nap = [&rng] { usleep(static_cast<useconds_t>(rng() % 200)); };
    Verdict verdict = Verdict::kWait;
    while (verdict == Verdict::kWait) {
        verdict = s.MayStop(rng() % 4 != 0, Now());
        nap();
    }
    if (verdict == Verdict::kGo) {
        s.Stopped(Now());
        nap();
        verdict = Verdict::kWait;
        for (bool prepared = false; verdict == Verdict::kWait; prepared |= rng() % 4 == 0) {
            verdict = s.MayLeave(prepared, Now());
            nap();
        }
    }
    return verdict == Verdict::kGo ? kLeaves : kStays;
}

// Whoever is killed whenever, with or without a gangd that sees it: no member leaves the
// source while another stays, and all come to an end.
TEST(Switchover, AllOrNothingHoldsWhoeverIsKilledWhenever) {
    test::Rng rng(test::TestSeed());
    uint32_t all_left = 0, all_stayed = 0;
    for (int round = 0; round < 24; round++) {
        SCOPED_TRACE(round);
        constexpr uint32_t kMembers = 4;
        Sample s(SwitchoverPolicy::kAllOrNothing, kMembers, kMembers);
        const bool kill_one = round % 3 != 0, gangd = round % 2 == 0;
        InitSwitchover(s.board.get(), SwitchoverPolicy::kAllOrNothing, kMembers, 60000,
                       kill_one && !gangd ? 300 : 60000);
        std::array<pid_t, kMembers> pids{};
        for (uint32_t i = 0; i < kMembers; i++) {
            pids[i] = fork();
            ASSERT_GE(pids[i], 0);
            if (pids[i] == 0) {
                alarm(60);
                _exit(Live(s.fd.get(), i, SwitchoverPolicy::kAllOrNothing, rng() + i));
            }
        }
        const uint32_t victim = rng() % kMembers;
        if (kill_one) {
            // Long before; or the lead of the go, and then about as long as the rest takes.
            usleep(round % 6 == 4
                       ? 1000
                       : static_cast<useconds_t>(kGoLeadNs / 1000 - 2000 + rng() % 8000));
            kill(pids[victim], SIGKILL);
        }
        uint32_t left = 0, stayed = 0;
        for (uint32_t n = 0; n < kMembers; n++) {
            int status = 0;
            const pid_t pid = wait(&status);
            const auto i =
                static_cast<uint32_t>(std::find(pids.begin(), pids.end(), pid) - pids.begin());
            ASSERT_LT(i, kMembers);
            if (WIFSIGNALED(status)) {
                EXPECT_EQ(i, victim);
                EXPECT_EQ(WTERMSIG(status), SIGKILL);
                if (gangd) {
                    s.board->SetState(i, MemberState::kDead);
                }
                continue;
            }
            ASSERT_TRUE(WIFEXITED(status));
            left += WEXITSTATUS(status) == kLeaves;
            stayed += WEXITSTATUS(status) == kStays;
        }
        EXPECT_TRUE(left == 0 || stayed == 0) << left << " left and " << stayed << " stayed";
        EXPECT_GE(left + stayed, kMembers - 1);
        if (!kill_one) {
            EXPECT_EQ(left, kMembers);
        }
        all_left += left > 0;
        all_stayed += stayed > 0;
    }
    EXPECT_GT(all_left, 0u);
    EXPECT_GT(all_stayed, 0u) << "no kill came before a commit";
}

} // namespace
} // namespace gang
