// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The tester finds what it is for: each defect of mutants.h, and each misdeed of
// a member, breaks an obligation in some case.

#include "mutants.h"

#include <gtest/gtest.h>

#include <cstring>
#include <iostream>

#include "cases.h"
#include "mutants_missing.h"

namespace gang::interleave {
namespace {

// What fails in a case, in one line; "" for nothing.
std::string Failure(const Named &named, Misdeed misdeed, uint64_t most) {
    Plan plan = named.plan();
    plan.misdeed = misdeed;
    GangCase c(plan);
    const Figures figures = Explore(&c, named.preemptions, most);
    if (figures.failure.empty()) {
        return "";
    }
    const std::string failure = figures.failure.substr(figures.failure.rfind("FAILED"));
    std::cout << named.name << ": " << figures << "\n" << failure << std::endl;
    return failure;
}

// The case by its name.
std::string Failure(const char *name, Misdeed misdeed) {
    for (const Named &named : kCases) {
        if (strcmp(named.name, name) == 0) {
            return Failure(named, misdeed, 20000);
        }
    }
    ADD_FAILURE() << "no case " << name;
    return "";
}

struct NamedMutant {
    const char *name;
    Mutant mutant;
    const char *in; // the case that shows it
};
class Mutants : public testing::TestWithParam<NamedMutant> {
  protected:
    ~Mutants() override { planted = Mutant::kNothing; }
};
void PrintTo(const NamedMutant &m, std::ostream *out) {
    *out << m.name;
}

TEST_P(Mutants, AreFound) {
    planted = GetParam().mutant;
    EXPECT_NE(Failure(GetParam().in, Misdeed::kNothing), "");
}

INSTANTIATE_TEST_SUITE_P(
    Interleaving, Mutants,
    testing::Values(NamedMutant{"HiFirst", kHiFirst, "FirstMeeting"},
                    NamedMutant{"HalfIgnored", kHalfIgnored, "FirstMeeting"},
                    NamedMutant{"HiByStore", kHiByStore, "FirstMeeting"},
                    NamedMutant{"LoByStore", kLoByStore, "FirstMeeting"},
                    NamedMutant{"ClaimInTwoSteps", kClaimInTwoSteps, "OnePage"},
                    NamedMutant{"ClaimByStore", kClaimByStore, "OnePage"},
                    NamedMutant{"ClaimAnything", kClaimAnything, "OnePage"},
                    NamedMutant{"SameSlot", kSameSlot, "OnePage"},
                    NamedMutant{"StateAfterAck", kStateAfterAck, "OnePage"},
                    NamedMutant{"ConfirmedEarly", kConfirmedEarly, "OnePage"},
                    NamedMutant{"BaseEarly", kBaseEarly, "Alike"},
                    NamedMutant{"ClaimReadTwice", kClaimReadTwice, "HangUp"},
                    NamedMutant{"ChunkTwice", kChunkTwice, "OnePage"},
                    NamedMutant{"MirroredFirst", kMirroredFirst, "Alike"},
                    NamedMutant{"NoTakeOver", kNoTakeOver, "OnePage"},
                    NamedMutant{"SeenInTwoSteps", kSeenInTwoSteps, "FirstMeeting"},
                    NamedMutant{"ValidFirst", kValidFirst, "OnePageAndTheStore"}),
    [](const auto &p) { return std::string(p.param.name); });

struct NamedMisdeed {
    const char *name;
    Misdeed misdeed;
    const char *in;
};
class Misdeeds : public testing::TestWithParam<NamedMisdeed> {};
void PrintTo(const NamedMisdeed &m, std::ostream *out) {
    *out << m.name;
}

TEST_P(Misdeeds, AreFound) {
    EXPECT_NE(Failure(GetParam().in, GetParam().misdeed), "");
}

INSTANTIATE_TEST_SUITE_P(
    Interleaving, Misdeeds,
    testing::Values(NamedMisdeed{"AckBeforeApply", Misdeed::kAckBeforeApply, "OnePageAndTheStore"},
                    NamedMisdeed{"AckAhead", Misdeed::kAckAhead, "OnePage"},
                    NamedMisdeed{"ReuseSlot", Misdeed::kReuseSlot, "OnePage"},
                    NamedMisdeed{"KeepSlot", Misdeed::kKeepSlot, "Crossed"},
                    NamedMisdeed{"BaseUnchecked", Misdeed::kBaseUnchecked, "Alike"}),
    [](const auto &p) { return std::string(p.param.name); });

TEST(InterleavingMutants, AllArePlanted) {
    EXPECT_STREQ(kMissingMutants, "") << "adapt tests/interleave/mutants.cmake";
}

// Else the others would prove nothing.
TEST(InterleavingMutants, TheCopyWithoutOneIsSound) {
    for (const Named &named : kCases) {
        EXPECT_EQ(Failure(named, Misdeed::kNothing, 2000), "");
    }
}

} // namespace
} // namespace gang::interleave
