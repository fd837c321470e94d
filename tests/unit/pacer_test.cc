// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Bandwidth, turns and places of a gang, in simulated time: what each member gets,
// and that nobody holds others up who died, stands still or writes nonsense.

#include "pacer.h"

#include <algorithm>
#include <vector>

#include "testing.h"

namespace gang {
namespace {

using test::Fd;

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kStart = 1'000'000 * kMs;
constexpr uint64_t kMb = 1'000'000;

// A gang whose members send what they may, in steps of 10 ms.
class PacerTest : public testing::Test {
  protected:
    struct Vm {
        std::unique_ptr<Board> board; // a mapping of its own, as in a process of its own
        std::unique_ptr<Pacer> pacer;
        uint32_t index = 0;
        Pacer::State state;
        Pacer::Pace pace;
        uint64_t demand = UINT64_MAX; // bytes a step
        bool runs = true;
    };
    void SetUp() override {
        GANG_OK(Board::Create(fd_.out()));
        GANG_OK(Board::Open(fd_.get(), &board_));
    }
    Vm &Add(uint64_t remaining, uint32_t priority = 0) {
        auto vm = std::make_unique<Vm>();
        EXPECT_TRUE(Board::Open(fd_.get(), &vm->board).ok());
        EXPECT_TRUE(board_->AddMember(1, &vm->index).ok());
        vm->pacer = std::make_unique<Pacer>(vm->board.get(), vm->index, priority);
        vm->state.remaining = remaining;
        vms_.push_back(std::move(vm));
        return *vms_.back();
    }
    void Step(Vm &vm) {
        vm.pace = vm.pacer->Next(vm.state, now_);
        if (vm.pace.send) {
            vm.state.wire_bytes += std::min({vm.pace.bytes, vm.demand, uint64_t{1} << 40});
        }
    }
    // As QEMU does: a credit, and then the rest of its window.
    void Run(uint64_t ms) {
        for (uint64_t end = now_ + ms * kMs; now_ < end; now_ += 10 * kMs) {
            for (auto &vm : vms_) {
                if (vm->runs) {
                    Step(*vm);
                }
            }
        }
    }
    Fd fd_;
    std::unique_ptr<Board> board_;
    std::vector<std::unique_ptr<Vm>> vms_;
    uint64_t now_ = kStart;
};

using Budgets = PacerTest;

TEST_F(Budgets, WithoutALimitEverybodyMaySendAnything) {
    Vm &a = Add(kMb);
    Step(a);
    EXPECT_TRUE(a.pace.send);
    EXPECT_EQ(a.pace.bytes, Budget::kNoLimit);
}

TEST_F(Budgets, AllTogetherKeepToTheRate) {
    for (int i = 0; i < 8; i++) {
        Add(1000 * kMb);
    }
    board_->header().budget = 100 * kMb;
    Run(10'000);
    uint64_t all = 0;
    for (auto &vm : vms_) {
        all += vm->state.wire_bytes;
    }
    EXPECT_LE(all, 1000 * kMb + 60 * kMb); // and a burst at the beginning
    EXPECT_GE(all, 950 * kMb);
}

TEST_F(Budgets, WhoHasMoreLeftGetsMore) {
    Vm &much = Add(900 * kMb), &little = Add(100 * kMb);
    board_->header().budget = 10 * kMb;
    Run(10'000);
    // Half is equal, half is 9 : 1.
    EXPECT_NEAR(static_cast<double>(much.state.wire_bytes), 70e6, 5e6);
    EXPECT_NEAR(static_cast<double>(little.state.wire_bytes), 30e6, 5e6);
}

TEST_F(Budgets, WhatOneDoesNotUseTheOthersGet) {
    Vm &a = Add(500 * kMb), &idle = Add(500 * kMb);
    idle.demand = 1000; // a step: 0.1 MB/s of its 5
    board_->header().budget = 10 * kMb;
    Run(10'000);
    EXPECT_GE(a.state.wire_bytes, 90 * kMb);
    EXPECT_LE(a.state.wire_bytes + idle.state.wire_bytes, 105 * kMb);
}

TEST_F(Budgets, Invariant4_ADeadMemberHoldsNoBudget) {
    Vm &a = Add(500 * kMb), &dead = Add(500 * kMb), &stopped = Add(500 * kMb);
    board_->header().budget = 12 * kMb;
    Run(1000);
    dead.runs = stopped.runs = false;
    board_->SetState(dead.index, MemberState::kDead);
    const uint64_t before = a.state.wire_bytes;
    Run(10'000); // `stopped` counts for two seconds
    EXPECT_GE(a.state.wire_bytes - before, 110 * kMb);
}

TEST_F(Budgets, RateIsChangedWhileRunningByAnyMember) {
    Vm &a = Add(500 * kMb), &b = Add(500 * kMb);
    a.pacer->set_budget(1000); // a byte a ms: one credit lasts for ever
    a.demand = b.demand = kMb;
    Run(2000);
    EXPECT_LE(a.state.wire_bytes + b.state.wire_bytes, 10 * kMb);
    b.pacer->set_budget(10 * kMb);
    const uint64_t before = a.state.wire_bytes;
    Run(10'000);
    EXPECT_NEAR(static_cast<double>(a.state.wire_bytes - before), 50e6, 5e6);
    b.pacer->set_budget(0);
    Step(a);
    EXPECT_EQ(a.pace.bytes, Budget::kNoLimit);
}

TEST_F(Budgets, Invariant5_NonsenseOnTheBoardStopsNobody) {
    Vm &a = Add(500 * kMb);
    Add(UINT64_MAX).runs = false;
    board_->header().budget = 10 * kMb;
    for (uint64_t nonsense : {UINT64_MAX, uint64_t{0}, uint64_t{1}, now_ + 3600'000 * kMs}) {
        board_->header().paid_until = nonsense;
        const uint64_t before = a.state.wire_bytes;
        Run(2000);
        EXPECT_GE(a.state.wire_bytes - before, 5 * kMb) << nonsense;
    }
    board_->header().budget = UINT64_MAX;
    Step(a);
    EXPECT_TRUE(a.pace.send);
}

class TurnsTest : public PacerTest {
  protected:
    void SetUp() override {
        PacerTest::SetUp();
        board_->header().turn_ms = 3000;
    }
    Vm &AddConverging(uint64_t away) {
        Vm &vm = Add(away);
        vm.state.first_round = false;
        vm.state.wants_turn = true;
        return vm;
    }
};

TEST_F(TurnsTest, OneHasItAndTheOthersWait) {
    Vm &a = AddConverging(10 * kMb), &bulk = Add(900 * kMb);
    Run(50);
    EXPECT_TRUE(a.pace.our_turn && a.pace.send);
    EXPECT_FALSE(bulk.pace.send);
    a.state.wants_turn = false;
    Run(20);
    EXPECT_FALSE(a.pace.our_turn);
    EXPECT_TRUE(bulk.pace.send);
}

// Whoever looks has read its clock before that one took it, and is nearer.
TEST_F(TurnsTest, WhatWasJustTakenIsNotTakenByOneWithAnEarlierClock) {
    Vm &a = AddConverging(10 * kMb), &b = AddConverging(5 * kMb);
    Step(a);
    ASSERT_TRUE(a.pace.our_turn);
    for (uint64_t earlier : {1 * kMs, 20 * kMs}) {
        now_ -= earlier;
        Step(b);
        EXPECT_FALSE(b.pace.our_turn || b.pace.send);
        now_ += earlier;
        Step(a);
        EXPECT_TRUE(a.pace.our_turn);
    }
}

TEST_F(TurnsTest, ItGoesToTheNearest) {
    Vm &far = AddConverging(30 * kMb), &nearest = AddConverging(10 * kMb);
    Vm &middle = AddConverging(20 * kMb);
    // All wish for it before one looks.
    for (auto &vm : vms_) {
        board_->record(vm->index).turn_wish = vm->state.remaining + 1;
    }
    std::vector<Vm *> order;
    for (int i = 0; i < 3; i++) {
        Run(100);
        for (Vm *vm : {&far, &nearest, &middle}) {
            if (vm->pace.our_turn) {
                order.push_back(vm);
                vm->runs = vm->pace.our_turn = false;
                vm->pacer->Release();
                board_->SetState(vm->index, MemberState::kLeft);
            }
        }
    }
    EXPECT_EQ(order, (std::vector<Vm *>{&nearest, &middle, &far}));
}

TEST_F(TurnsTest, Invariant4_WhoTakesTooLongLosesItAndLetsOthersSend) {
    Vm &never = AddConverging(10 * kMb), &bulk = Add(900 * kMb);
    Run(50);
    ASSERT_TRUE(never.pace.our_turn);
    uint64_t waited = 0, sent = 0;
    for (int i = 0; i < 2000; i++) { // 20 s
        Run(10);
        (bulk.pace.send ? sent : waited)++;
    }
    EXPECT_GE(sent, waited) << "one that never converges has the link half of the time";
    EXPECT_EQ(board_->record(never.index).lost_turns > 1, true);
}

TEST_F(TurnsTest, Invariant4_WhoDiesOrStandsStillLosesIt) {
    Vm &a = AddConverging(10 * kMb), &other = Add(900 * kMb);
    Run(50);
    ASSERT_FALSE(other.pace.send);
    a.runs = false;
    Run(2100); // its heart
    EXPECT_TRUE(other.pace.send);
    a.runs = true; // was only stopped: asks again, and gets it
    Run(50);
    EXPECT_TRUE(a.pace.our_turn);
    EXPECT_FALSE(other.pace.send);
    a.runs = false;
    board_->SetState(a.index, MemberState::kDead);
    Run(20);
    EXPECT_TRUE(other.pace.send);
}

TEST_F(TurnsTest, Invariant4_WhoseDestinationDoesNotAnswerLosesIt) {
    Vm &a = AddConverging(10 * kMb), &other = Add(900 * kMb);
    Run(50);
    ASSERT_TRUE(a.pace.our_turn);
    a.demand = 0; // its sockets are full
    Run(Pacer::kIdleMs + 50);
    EXPECT_FALSE(a.pace.our_turn);
    EXPECT_TRUE(other.pace.send);
}

TEST_F(TurnsTest, TheVmIsStoppedWhenTheOthersHaveNothingUnderWay) {
    Vm &a = AddConverging(1000), &other = Add(900 * kMb);
    other.state.in_flight = 7;
    a.state.stops_next = true;
    Run(100);
    EXPECT_TRUE(a.pace.our_turn);
    EXPECT_FALSE(a.pace.may_stop);
    other.state.in_flight = 0;
    Run(20);
    EXPECT_TRUE(a.pace.may_stop);
}

TEST_F(TurnsTest, Invariant4_OthersThatDoNotBecomeQuietAreNotWaitedForLong) {
    Vm &a = AddConverging(1000), &other = Add(900 * kMb);
    other.state.in_flight = 7;
    a.state.stops_next = true;
    Run(Pacer::kQuietMs + 50);
    EXPECT_TRUE(a.pace.may_stop);
}

TEST_F(TurnsTest, WithoutTurnsNobodyWaits) {
    board_->header().turn_ms = 0;
    Vm &a = AddConverging(1000), &other = AddConverging(2000);
    a.state.stops_next = true;
    other.state.in_flight = 7;
    Run(20);
    EXPECT_TRUE(a.pace.may_stop && a.pace.send && other.pace.send);
    EXPECT_FALSE(a.pace.our_turn || other.pace.our_turn);
}

TEST_F(TurnsTest, Invariant5_NonsenseInTheTurnHoldsNobodyUp) {
    Vm &a = AddConverging(10 * kMb);
    for (uint64_t nonsense : {UINT64_MAX, uint64_t{0xff}, (kStart / kMs + 3600'000) << 8 | 2,
                              (kStart / kMs) << 8 | 200, (kStart / kMs) << 8}) {
        board_->header().turn = nonsense;
        Run(20);
        EXPECT_TRUE(a.pace.send) << nonsense;
        a.pacer->Release();
    }
    // One that says for ever that it is nearer, and does not come.
    Vm &liar = Add(1);
    liar.state.first_round = false;
    board_->header().turn = 0;
    for (uint64_t end = now_ + 500 * kMs; now_ < end; now_ += 10 * kMs) {
        board_->record(liar.index).turn_wish = 1;
        board_->record(liar.index).heartbeat++;
        Step(a);
    }
    EXPECT_TRUE(a.pace.our_turn);
}

class PlacesTest : public PacerTest {
  protected:
    std::vector<uint32_t> InBulk() {
        std::vector<uint32_t> list;
        for (auto &vm : vms_) {
            if (vm->runs && vm->pace.send && vm->state.first_round) {
                list.push_back(vm->index);
            }
        }
        return list;
    }
};

TEST_F(PlacesTest, AtMostKAreInTheBulkPhaseByPriorityThenJoinOrder) {
    board_->header().bulk_limit = 2;
    Add(kMb, 0), Add(kMb, 5), Add(kMb, 0), Add(kMb, 9), Add(kMb, 5);
    Run(20);
    EXPECT_EQ(InBulk(), (std::vector<uint32_t>{1, 3}));
    vms_[3]->state.first_round = false;
    Run(20);
    EXPECT_EQ(InBulk(), (std::vector<uint32_t>{1, 4}));
    EXPECT_TRUE(vms_[3]->pace.send) << "later rounds need no place";
    vms_[1]->state.first_round = vms_[4]->state.first_round = false;
    Run(20);
    EXPECT_EQ(InBulk(), (std::vector<uint32_t>{0, 2}));
}

TEST_F(PlacesTest, WhoComesFirstWaitsAMomentForThoseThatGoBefore) {
    board_->header().bulk_limit = 1;
    Vm &early = Add(kMb, 0), &late = Add(kMb, 7);
    late.runs = false;
    for (int i = 0; i < 20; i++) { // still scans
        board_->record(late.index).heartbeat++;
        Run(10);
    }
    EXPECT_FALSE(early.pace.send);
    late.runs = true;
    Run(20);
    EXPECT_TRUE(late.pace.send);
    EXPECT_FALSE(early.pace.send);
}

TEST_F(PlacesTest, Invariant4_ADeadOrStoppedMemberFreesItsPlace) {
    board_->header().bulk_limit = 1;
    Vm &first = Add(kMb), &second = Add(kMb), &third = Add(kMb);
    Run(20);
    ASSERT_TRUE(first.pace.send && !second.pace.send);
    first.runs = false; // stopped
    Run(2200);
    EXPECT_TRUE(second.pace.send);
    first.runs = true; // goes on: its place is another's
    Run(20);
    EXPECT_FALSE(first.pace.send);
    EXPECT_TRUE(second.pace.send);
    second.runs = false;
    board_->SetState(second.index, MemberState::kDead);
    Run(20);
    EXPECT_EQ(InBulk().size(), 1u);
    EXPECT_FALSE(first.pace.send && third.pace.send);
}

// Its heart beats, and its migration is neither over nor going on.
TEST_F(PlacesTest, Invariant4_WhoseDestinationDoesNotAnswerLeavesItsPlace) {
    board_->header().bulk_limit = 1;
    board_->header().turn_ms = 5000;
    Vm &hung = Add(1000 * kMb, 9), &a = Add(1000 * kMb, 5), &b = Add(1000 * kMb);
    Run(500);
    ASSERT_TRUE(hung.pace.send && !a.pace.send);
    hung.demand = 0;
    hung.state.in_flight = 513;
    Run(Pacer::kStalledMs - 100);
    EXPECT_TRUE(hung.pace.send && !a.pace.send) << "it may only be slow";
    Run(200);
    EXPECT_FALSE(hung.pace.send);
    EXPECT_TRUE(a.pace.send && !b.pace.send);
    a.state.first_round = false;
    for (int i = 0; i < 600; i++) { // 60 s
        Run(100);
        ASSERT_FALSE(hung.pace.send);
        ASSERT_TRUE(b.pace.send) << "and no place is kept for it";
    }
    // Answered again, it waits for a place as others do.
    hung.state.in_flight = 0;
    hung.demand = UINT64_MAX;
    Run(BulkPlaces::kStandBackMs + 100);
    EXPECT_FALSE(hung.pace.send);
    b.state.first_round = false;
    Run(20);
    EXPECT_TRUE(hung.pace.send);
}

TEST_F(PlacesTest, WithoutALimitNobodyStandsBack) {
    Vm &slow = Add(1000 * kMb);
    slow.demand = 0;
    slow.state.in_flight = 1;
    Run(2 * Pacer::kStalledMs);
    EXPECT_TRUE(slow.pace.send);
}

TEST_F(PlacesTest, LimitIsChangedWhileRunning) {
    board_->header().bulk_limit = 1;
    Add(kMb), Add(kMb), Add(kMb);
    Run(20);
    EXPECT_EQ(InBulk().size(), 1u);
    board_->header().bulk_limit = 0;
    Run(20);
    EXPECT_EQ(InBulk().size(), 3u);
    board_->header().bulk_limit = UINT64_MAX;
    Run(20);
    EXPECT_EQ(InBulk().size(), 3u);
    board_->header().bulk_limit = 2;
    Run(20);
    EXPECT_EQ(InBulk().size(), 2u);
}

TEST_F(PlacesTest, Invariant5_NonsenseInThePlacesIsTakenOver) {
    board_->header().bulk_limit = 1;
    Vm &a = Add(kMb);
    for (uint32_t nonsense : {UINT32_MAX, 129u, 77u}) {
        board_->header().bulk[0] = nonsense;
        Run(20);
        EXPECT_TRUE(a.pace.send) << nonsense;
    }
}

TEST_F(PlacesTest, TheLastLetsAllOthersGoFirst) {
    Vm &stuck = Add(kMb), &a = Add(kMb), &b = Add(kMb);
    for (Vm *vm : {&stuck, &a, &b}) {
        vm->state.first_round = false;
    }
    stuck.state.last = true;
    Run(20);
    EXPECT_FALSE(stuck.pace.send);
    EXPECT_TRUE(a.pace.send && b.pace.send);
    b.state.last = true;
    board_->SetState(a.index, MemberState::kLeft);
    a.runs = false;
    Run(20);
    EXPECT_TRUE(stuck.pace.send && b.pace.send) << "both are last";
}

// Others may never converge either, and are throttled for ever instead.
TEST_F(PlacesTest, Invariant4_TheLastDoesNotWaitForEver) {
    Vm &stuck = Add(kMb), &throttled = Add(kMb);
    stuck.state.first_round = throttled.state.first_round = false;
    stuck.state.last = true;
    Run(Pacer::kMaxLastMs - 100);
    EXPECT_FALSE(stuck.pace.send);
    Run(200);
    EXPECT_TRUE(stuck.pace.send && throttled.pace.send);
}

} // namespace
} // namespace gang
