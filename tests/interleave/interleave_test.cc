// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The directory and the store under every order of their members' accesses, and
// with members that end between any two of them.  GANG_LONG=1: without limits that
// are only there for the sake of time.  GANG_SCHEDULE: one schedule, step by step.

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "cases.h"

namespace gang::interleave {
namespace {

bool Long() {
    return getenv("GANG_LONG") != nullptr;
}

// The same for everybody: what fails in CI fails here.
uint64_t Seed() {
    const char *text = getenv("GANG_SEED");
    return text ? strtoull(text, nullptr, 0) : 1;
}

class Interleaving : public testing::TestWithParam<Named> {};

TEST_P(Interleaving, EveryObligationHoldsWhateverTheOrderAndWhoeverEnds) {
    GangCase c(GetParam().plan());
    if (const char *schedule = getenv("GANG_SCHEDULE")) {
        const Figures figures = Replay(&c, ParseSchedule(schedule));
        std::cout << figures.failure << std::endl;
        FAIL() << "a replay";
    }
    const uint32_t preemptions = GetParam().preemptions;
    const Figures figures =
        Explore(&c, preemptions == kUnbounded ? kUnbounded : preemptions + Long(),
                Long() || preemptions == kUnbounded ? 2000000 : 20000);
    std::cout << figures << std::endl;
    ASSERT_EQ(figures.failure, "");
    EXPECT_GT(figures.ends, 10u);
    if (preemptions == kUnbounded) {
        EXPECT_TRUE(figures.complete) << "not every interleaving";
    }
}

TEST_P(Interleaving, EveryObligationHoldsInRandomOrders) {
    if (getenv("GANG_SCHEDULE")) {
        GTEST_SKIP() << "GANG_SCHEDULE replays one schedule: unset it for the random orders";
    }
    GangCase c(GetParam().plan());
    const Figures figures = Wander(&c, Seed(), Long() ? 200000 : 1500);
    std::cout << figures << std::endl;
    ASSERT_EQ(figures.failure, "");
}

INSTANTIATE_TEST_SUITE_P(Gang, Interleaving, testing::ValuesIn(kCases),
                         [](const auto &param) { return std::string(param.param.name); });

// What is known, and harmless: see docs/crash-consistency.md.  Nothing but the claim
// moves (HangUp and LeaveEarly, above): the old slot keeps what it has.
TEST(InterleavingLateAcks, MayConfirmAClaimThatIsBeingTakenOver) {
    Plan plan = HangUp();
    plan.world.claims_may_move = false;
    GangCase c(plan);
    const Figures figures = Explore(&c, 2, 20000);
    EXPECT_NE(figures.failure.find("FAILED: entry 0: a confirmed claim changed"),
              std::string::npos);
}

TEST(InterleavingSchedule, TextAndBack) {
    const std::vector<Choice> schedule = {0, 0, 3, kCrash | 1, 2, 2, 2};
    EXPECT_EQ(ScheduleText(schedule), "0*2 3 !1 2*3");
    EXPECT_EQ(ParseSchedule(ScheduleText(schedule)), schedule);
}

} // namespace
} // namespace gang::interleave
