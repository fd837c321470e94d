// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Progress tells the truth: it never goes back, whatever a guest writes, and is
// complete when the migration is.

#include "figures.h"

#include "testing.h"

namespace gang::test {
namespace {

using gangctl::GangFigures;
using gangctl::GangMeter;
using gangctl::Outcome;
using gangctl::TakeFigures;
using gangctl::Vm;
using gangctl::Vms;
using nlohmann::json;

// As it comes from a socket: numbers that are not negative are unsigned.
json Look(uint64_t sent, uint64_t zero, uint64_t remaining, uint64_t round = 1) {
    json ram = {{"page-size", 4096},         {"normal", sent},
                {"duplicate", zero},         {"remaining", remaining * 4096},
                {"total", 1000 * 4096},      {"transferred", sent * 400},
                {"dirty-sync-count", round}, {"dirty-pages-rate", round > 1 ? 50 : 0}};
    json answer = {{"status", "active"}, {"ram", ram}};
    return json::parse(answer.dump());
}

Vms MakeVms(size_t n) {
    Vms vms;
    for (size_t i = 0; i < n; i++) {
        vms.push_back(
            std::make_unique<Vm>(gangctl::VmPlan{"vm" + std::to_string(i), "", "", "", ""}));
        vms.back()->outcome = Outcome::kRunning;
    }
    return vms;
}

TEST(Figures, FirstRoundIsThePartOfMemoryThatWasSent) {
    Vms vms = MakeVms(1);
    Vm &vm = *vms[0];
    TakeFigures(Look(0, 0, 1000), &vm);
    EXPECT_EQ(vm.percent(), 0);
    EXPECT_EQ(vm.left_ms, -1); // nothing was sent: it cannot be told
    TakeFigures(Look(100, 150, 750), &vm);
    EXPECT_DOUBLE_EQ(vm.percent(), 22.5);
    TakeFigures(Look(700, 300, 0), &vm);
    EXPECT_LT(vm.percent(), 100); // the guest has not left yet
    vm.outcome = Outcome::kCompleted;
    EXPECT_EQ(vm.percent(), 100);
}

TEST(Figures, NewRoundMakesThePercentageStandStill) {
    Vms vms = MakeVms(1);
    Vm &vm = *vms[0];
    TakeFigures(Look(600, 300, 100), &vm);
    EXPECT_DOUBLE_EQ(vm.percent(), 81);
    TakeFigures(Look(700, 300, 800, 2), &vm); // it wrote nearly all of it
    EXPECT_DOUBLE_EQ(vm.percent(), 81);
    gangctl::TakeGangFigures({{"percent", 90.4}}, &vm); // far from the end
    EXPECT_DOUBLE_EQ(vm.percent(), 90.4);
    gangctl::TakeGangFigures({{"percent", 90.1}}, &vm);
    EXPECT_DOUBLE_EQ(vm.percent(), 90.4);
    EXPECT_EQ(vm.remaining_bytes, 800u * 4096); // which is not hidden
    EXPECT_EQ(vm.round, 2u);
    EXPECT_EQ(vm.dirty_rate, 50 * 4096);
}

TEST(Figures, FailureIsNoProgress) {
    Vms vms = MakeVms(1);
    TakeFigures(Look(300, 200, 500), vms[0].get());
    json ended = Look(300, 200, 0);
    ended["status"] = "failed";
    TakeFigures(ended, vms[0].get());
    EXPECT_DOUBLE_EQ(vms[0]->percent(), 45);
}

TEST(Figures, NeverGoBackHoweverGuestsWrite) {
    Rng rng(TestSeed());
    for (int run = 0; run < 200; run++) {
        Vms vms = MakeVms(1 + Below(rng, 4));
        GangMeter meter;
        std::vector<double> reached(vms.size());
        std::vector<uint64_t> sent(vms.size());
        double gang_reached = 0;
        for (int look = 0; look < 100; look++) {
            for (size_t i = 0; i < vms.size(); i++) {
                if (vms[i]->over()) {
                    continue;
                }
                sent[i] += Below(rng, 400);
                TakeFigures(Look(sent[i], Below(rng, 50), Below(rng, 2000),
                                 static_cast<uint64_t>(look) / 5),
                            vms[i].get());
                EXPECT_GE(vms[i]->percent(), reached[i]);
                EXPECT_LT(vms[i]->percent(), 100);
                reached[i] = vms[i]->percent();
                if (Below(rng, 100) == 0) {
                    vms[i]->outcome = Below(rng, 2) ? Outcome::kCompleted : Outcome::kFailed;
                }
            }
            GangFigures gang = meter.Look(vms);
            EXPECT_GE(gang.percent, gang_reached);
            EXPECT_EQ(gang.percent == 100, gang.completed == vms.size());
            gang_reached = gang.percent;
        }
    }
}

TEST(Figures, GangIsInThePhaseOfTheLeastAdvancedAndKnowsItsEndIfAllDo) {
    Vms vms = MakeVms(2);
    GangMeter meter;
    vms[0]->phase = "switchover";
    vms[0]->left_ms = 10;
    vms[1]->phase = "scanning";
    GangFigures gang = meter.Look(vms);
    EXPECT_EQ(gang.phase, "scanning");
    EXPECT_EQ(gang.left_ms, -1);
    EXPECT_TRUE(FiguresJson(gang)["estimated_ms"].is_null());
    vms[1]->left_ms = 70;
    EXPECT_EQ(meter.Look(vms).left_ms, 70);
    vms[1]->outcome = Outcome::kFailed;
    vms[0]->outcome = Outcome::kCompleted;
    gang = meter.Look(vms);
    EXPECT_EQ(gang.phase, "ended");
    EXPECT_LT(gang.percent, 100); // one stayed
    EXPECT_EQ(gang.failed, 1u);
}

TEST(Figures, AnswersOfStrangeTypesAreIgnored) {
    Vms vms = MakeVms(1);
    for (const json &strange :
         {json::object(), json{{"ram", 7}}, json{{"ram", {{"remaining", -1}, {"normal", "x"}}}},
          json{{"ram", json::array()}}}) {
        TakeFigures(strange, vms[0].get());
        gangctl::TakeGangFigures(strange, vms[0].get());
    }
    EXPECT_EQ(vms[0]->percent(), 0);
}

} // namespace
} // namespace gang::test
