// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The tester finds what it is for: each defect of mutants.h, and each misdeed of
// a member, breaks an obligation in some case.

#include "mutants.h"

#include <gtest/gtest.h>

#include <iostream>

#include "cases.h"
#include "mutants_missing.h"

namespace gang::interleave {
namespace {

// The first case in which something fails, as its name; "" for none.
std::string FirstFailure(Misdeed misdeed, uint64_t most) {
    for (const Named &named : kCases) {
        Plan plan = named.plan();
        plan.misdeed = misdeed;
        GangCase c(plan);
        Figures figures = Explore(&c, named.preemptions, most);
        if (figures.failure.empty()) {
            figures = Wander(&c, 1, most / 10);
        }
        if (!figures.failure.empty()) {
            std::cout << named.name << ": " << figures << "\n"
                      << figures.failure.substr(figures.failure.rfind("FAILED")) << std::endl;
            return named.name;
        }
    }
    return "";
}

constexpr uint64_t kMost = 20000;

struct NamedMutant {
    const char *name;
    Mutant mutant;
};
class Mutants : public testing::TestWithParam<NamedMutant> {
  protected:
    ~Mutants() override { planted = Mutant::kNothing; }
};
void PrintTo(const NamedMutant &m, std::ostream *out) { *out << m.name; }

TEST_P(Mutants, AreFound) {
    planted = GetParam().mutant;
    EXPECT_NE(FirstFailure(Misdeed::kNothing, kMost), "");
}

INSTANTIATE_TEST_SUITE_P(
    Interleaving, Mutants,
    testing::Values(NamedMutant{"HiFirst", kHiFirst}, NamedMutant{"HiByStore", kHiByStore},
                    NamedMutant{"LoByStore", kLoByStore},
                    NamedMutant{"ClaimInTwoSteps", kClaimInTwoSteps},
                    NamedMutant{"ClaimByStore", kClaimByStore},
                    NamedMutant{"ClaimAnything", kClaimAnything},
                    NamedMutant{"SameSlot", kSameSlot},
                    NamedMutant{"StateAfterAck", kStateAfterAck},
                    NamedMutant{"ConfirmedEarly", kConfirmedEarly},
                    NamedMutant{"BaseEarly", kBaseEarly},
                    NamedMutant{"ClaimReadTwice", kClaimReadTwice},
                    NamedMutant{"ChunkTwice", kChunkTwice},
                    NamedMutant{"MirroredFirst", kMirroredFirst},
                    NamedMutant{"NoTakeOver", kNoTakeOver},
                    NamedMutant{"SeenInTwoSteps", kSeenInTwoSteps},
                    NamedMutant{"ValidFirst", kValidFirst}),
    [](const auto &p) { return std::string(p.param.name); });

struct NamedMisdeed {
    const char *name;
    Misdeed misdeed;
};
class Misdeeds : public testing::TestWithParam<NamedMisdeed> {};
void PrintTo(const NamedMisdeed &m, std::ostream *out) { *out << m.name; }

TEST_P(Misdeeds, AreFound) { EXPECT_NE(FirstFailure(GetParam().misdeed, kMost), ""); }

INSTANTIATE_TEST_SUITE_P(
    Interleaving, Misdeeds,
    testing::Values(NamedMisdeed{"AckBeforeApply", Misdeed::kAckBeforeApply},
                    NamedMisdeed{"AckAhead", Misdeed::kAckAhead},
                    NamedMisdeed{"ReuseSlot", Misdeed::kReuseSlot},
                    NamedMisdeed{"KeepSlot", Misdeed::kKeepSlot},
                    NamedMisdeed{"BaseUnchecked", Misdeed::kBaseUnchecked}),
    [](const auto &p) { return std::string(p.param.name); });

TEST(InterleavingMutants, AllArePlanted) {
    EXPECT_STREQ(kMissingMutants, "") << "adapt tests/interleave/mutants.cmake";
}

// Else the others would prove nothing.
TEST(InterleavingMutants, TheCopyWithoutOneIsSound) {
    EXPECT_EQ(FirstFailure(Misdeed::kNothing, 2000), "");
}

} // namespace
} // namespace gang::interleave
