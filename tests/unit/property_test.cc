// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Whatever the guests, the network and the other members do, in whatever
// order: a member that reaches its end has all of its memory at the
// destination.  A failure is shrunk to a short list of steps and comes with
// the seed to repeat it (RC_PARAMS="seed=...").

#include <gtest/gtest.h>

#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <cstdlib>
#include <ostream>

#include "simulation.h"

namespace gang::test {

struct Step {
    enum Kind {
        kWrite,
        kEncode,
        kDeliver,
        kAck,
        kTakeReady,
        kPass,
        kKill,
        kFinish,
        kKinds
    };
    int kind;
    size_t member;
    size_t count;  // pages, packets or acknowledgements
    size_t writes; // while a packet is made
    uint64_t seed; // of the random choices inside the step
};

std::ostream &operator<<(std::ostream &out, const Step &step) {
    static const char *kNames[] = {"write", "encode", "deliver", "ack",
                                   "take",  "pass",   "kill",    "finish"};
    return out << kNames[step.kind] << "(member " << step.member << ", " << step.count << ", "
               << step.writes << ", seed " << step.seed << ")";
}

std::ostream &operator<<(std::ostream &out, const Simulation::Config &c) {
    return out << "{members " << c.members << ", pages " << c.pages << ", slots " << c.slots
               << ", contents " << c.contents << ", zstd " << c.zstd << ", subpage " << c.subpage
               << ", mirror " << c.mirror_pages << ", alone " << c.alone << "}";
}

void Run(Simulation *simulation, const Step &step) {
    const size_t member = step.member % simulation->members();
    Rng rng(step.seed);
    switch (step.kind) {
    case Step::kWrite:
        simulation->Write(member, step.count, rng);
        break;
    case Step::kEncode:
        simulation->Encode(member, step.count, step.writes, rng);
        break;
    case Step::kDeliver:
        for (size_t i = 0; i < step.count; i++) {
            Status status = simulation->Deliver(member);
            RC_ASSERT(status.message() == "");
        }
        break;
    case Step::kAck:
        for (size_t i = 0; i < step.count; i++) {
            simulation->Ack(member);
        }
        break;
    case Step::kTakeReady:
        simulation->TakeReady(member);
        break;
    case Step::kPass:
        simulation->Pass(100 * step.count);
        break;
    case Step::kKill:
        simulation->Kill(member);
        break;
    case Step::kFinish: {
        const bool running = simulation->Running(member);
        Status status = simulation->Finish(member);
        RC_ASSERT(status.message() == "");
        RC_ASSERT(!running || simulation->Identical(member));
        break;
    }
    }
}

// rapidcheck's own default is 100 cases.
const bool kConfigured = [] {
    return setenv("RC_PARAMS", getenv("GANG_LONG") ? "max_success=10000" : "max_success=400", 0) ==
           0;
}();

} // namespace gang::test

namespace rc {

template <> struct Arbitrary<gang::test::Step> {
    static Gen<gang::test::Step> arbitrary() {
        using gang::test::Step;
        return gen::build<Step>(
            gen::set(&Step::kind, gen::weightedElement<int>({{4, Step::kWrite},
                                                             {12, Step::kEncode},
                                                             {8, Step::kDeliver},
                                                             {8, Step::kAck},
                                                             {4, Step::kTakeReady},
                                                             {2, Step::kPass},
                                                             {1, Step::kKill},
                                                             {1, Step::kFinish}})),
            gen::set(&Step::member, gen::inRange<size_t>(0, 6)),
            gen::set(&Step::count, gen::inRange<size_t>(0, 24)),
            gen::set(&Step::writes, gen::inRange<size_t>(0, 4)),
            gen::set(&Step::seed, gen::inRange<uint64_t>(0, 1000)));
    }
};

template <> struct Arbitrary<gang::test::Simulation::Config> {
    static Gen<gang::test::Simulation::Config> arbitrary() {
        using Config = gang::test::Simulation::Config;
        return gen::build<Config>(
            gen::set(&Config::members, gen::inRange<size_t>(1, 7)),
            gen::set(&Config::pages, gen::inRange<size_t>(1, 48)),
            // Under one chunk there is no room at all, under two not for all.
            gen::set(&Config::slots, gen::inRange<uint64_t>(1, 1024)),
            gen::set(&Config::contents, gen::inRange<uint64_t>(1, 80)),
            gen::set(&Config::zstd, gen::inRange<unsigned>(0, 64)),
            gen::set(&Config::subpage, gen::weightedElement<unsigned>({{3, 0u}, {1, 9u}})),
            gen::set(&Config::mirror_pages,
                     gen::weightedElement<uint64_t>({{1, 0}, {1, 3}, {3, 1024}})),
            gen::set(&Config::alone, gen::weightedElement<unsigned>({{6, 0u}, {1, 1u}, {1, 5u}})));
    }
};

} // namespace rc

namespace gang::test {
namespace {

RC_GTEST_PROP(AnyMigration, Invariant1_EveryMemberThatFinishesIsBitIdentical,
              (const Simulation::Config &config, bool scan, const std::vector<Step> &steps)) {
    Simulation simulation(config);
    if (scan) {
        simulation.ScanAll();
    }
    for (const Step &step : steps) {
        Run(&simulation, step);
    }
    for (size_t member = 0; member < simulation.members(); member++) {
        Run(&simulation, {Step::kFinish, member, 0, 0, 0});
    }
    RC_ASSERT(simulation.gang().store->slots_used() <= config.slots);
}

// Without deaths and losses the gang does what it is for: of a content that the
// scan saw twice, one copy is sent.
RC_GTEST_PROP(AnyMigration, EachContentOfAnUndisturbedGangCrossesTheWireOnce,
              (const Simulation::Config &any)) {
    Simulation::Config config = any;
    config.alone = 0;
    config.slots = 64 * 64;
    Simulation simulation(config);
    simulation.ScanAll();
    Rng rng(1);
    for (int round = 0; round < 3; round++) {
        for (size_t member = 0; member < simulation.members(); member++) {
            simulation.TakeReady(member);
            simulation.Encode(member, config.pages, 0, rng);
            Run(&simulation, {Step::kDeliver, member, 9, 0, 0});
            Run(&simulation, {Step::kAck, member, 9, 0, 0});
        }
    }
    uint64_t literal = 0, published = 0;
    for (uint32_t member = 0; member < simulation.members(); member++) {
        RC_ASSERT(simulation.Identical(member));
        literal += simulation.gang().directory->stat(member, Stat::kLiteralPages);
        published += simulation.gang().directory->stat(member, Stat::kPublishedPages);
    }
    RC_ASSERT(literal + published < config.contents + 1);
}

} // namespace
} // namespace gang::test
