// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Percentages, rates and the time that is left: see figures.h.

#include "figures.h"

#include <algorithm>
#include <iterator>

#include "control_message.h"

namespace gangctl {

using gang::GetUint;
using nlohmann::json;

namespace {

constexpr double kNearly = 99.9; // what is not complete is not shown as complete

// What is left when the first round has ended is what the guest wrote meanwhile; how near
// the end that is, QEMU tells.
constexpr double kFirstRound = 90;

double Percent(uint64_t done, uint64_t left) {
    if (done == 0) {
        return 0;
    }
    auto d = static_cast<double>(done);
    return kFirstRound * d / (d + static_cast<double>(left));
}

void TakeRate(Vm *vm) {
    int64_t now = NowMs();
    if (!vm->rate_ms) {
        vm->rate_ms = now;
    } else if (now - vm->rate_ms >= 200) {
        auto per_second = [&](uint64_t bytes, uint64_t before) {
            return static_cast<double>(bytes - std::min(bytes, before)) * 1000 /
                   static_cast<double>(now - vm->rate_ms);
        };
        auto smooth = [](double old, double rate) {
            return old > 0 ? 0.6 * old + 0.4 * rate : rate;
        };
        vm->rate = smooth(vm->rate, per_second(vm->wire_bytes, vm->rate_bytes));
        vm->memory_rate = smooth(vm->memory_rate, per_second(vm->done_bytes, vm->rate_done));
        vm->rate_ms = now;
    } else {
        return;
    }
    vm->rate_bytes = vm->wire_bytes;
    vm->rate_done = vm->done_bytes;
}

json LeftJson(int64_t left_ms) {
    return left_ms < 0 ? json(nullptr) : json(left_ms);
}

} // namespace

void TakeFigures(const json &migration, Vm *vm) {
    if (auto ram = migration.find("ram"); ram != migration.end()) {
        uint64_t page = gang::kPageSize, zero = 0, other = 0, dirty = 0;
        GetUint(*ram, "page-size", 1 << 30, &page);
        GetUint(*ram, "total", INT64_MAX, &vm->ram_bytes);
        GetUint(*ram, "remaining", INT64_MAX, &vm->remaining_bytes);
        GetUint(*ram, "transferred", INT64_MAX, &vm->wire_bytes);
        GetUint(*ram, "dirty-sync-count", INT64_MAX, &vm->round);
        if (GetUint(*ram, "dirty-pages-rate", INT64_MAX, &dirty)) {
            vm->dirty_rate = static_cast<double>(dirty) * static_cast<double>(page);
        }
        if (GetUint(*ram, "duplicate", INT64_MAX, &zero) &&
            GetUint(*ram, "normal", INT64_MAX, &other)) {
            vm->done_bytes = std::max(vm->done_bytes, (zero + other) * page);
        }
    }
    GetUint(migration, "total-time", INT64_MAX, &vm->total_ms);
    GetUint(migration, "downtime", INT64_MAX, &vm->downtime_ms);
    TakeRate(vm);
    // Nothing remains of a migration that was given up, either.
    std::string status;
    if (gang::GetString(migration, "status", &status) &&
        (status == "failed" || status == "cancelled")) {
        vm->left_ms = -1;
        return;
    }
    vm->reached = std::max(vm->reached, Percent(vm->done_bytes, vm->remaining_bytes));
    // The guest writes while its memory is sent.
    double net = vm->memory_rate - vm->dirty_rate;
    vm->left_ms = vm->done_bytes && net > 0
                      ? static_cast<int64_t>(static_cast<double>(vm->remaining_bytes) * 1000 / net)
                      : -1;
}

void TakeGangFigures(const json &gang, Vm *vm) {
    GetUint(gang, "zero-pages", INT64_MAX, &vm->zero_pages);
    GetUint(gang, "literal-pages", INT64_MAX, &vm->literal_pages);
    GetUint(gang, "published-pages", INT64_MAX, &vm->published_pages);
    GetUint(gang, "referenced-pages", INT64_MAX, &vm->referenced_pages);
    GetUint(gang, "patched-pages", INT64_MAX, &vm->patched_pages);
    GetUint(gang, "delta-pages", INT64_MAX, &vm->delta_pages);
    GetUint(gang, "saved-bytes", INT64_MAX, &vm->saved_bytes);
    GetUint(gang, "stopped-at", INT64_MAX, &vm->stopped_us);
    if (auto told = gang.find("percent"); told != gang.end() && told->is_number()) {
        vm->reached = std::clamp(told->get<double>(), vm->reached, kNearly);
    }
    auto late = gang.find("late");
    vm->late = late != gang.end() && *late == true;
}

Skew SkewOf(const Vms &vms) {
    Skew skew;
    uint64_t first = UINT64_MAX, last = 0;
    for (const auto &vm : vms) {
        if (vm->stopped_us == 0) {
            continue;
        }
        if (vm->late) {
            skew.late++;
            continue;
        }
        skew.stopped++;
        first = std::min(first, vm->stopped_us);
        last = std::max(last, vm->stopped_us);
    }
    skew.ms = skew.stopped ? static_cast<double>(last - first) / 1000 : 0;
    return skew;
}

GangFigures GangMeter::Look(const Vms &vms) {
    static constexpr const char *kPhases[] = {"waiting",   "setup",    "greeting",
                                              "joining",   "scanning", "barrier",
                                              "migrating", "active",   "switchover"};
    GangFigures gang;
    double done = 0, all = 0;
    uint64_t last_round = 0;
    size_t least = std::size(kPhases);
    bool told = true;
    for (const auto &vm : vms) {
        gang.wire_bytes += vm->wire_bytes;
        gang.saved_bytes += vm->saved_bytes;
        gang.zero_pages += vm->zero_pages;
        gang.literal_pages += vm->literal_pages;
        gang.published_pages += vm->published_pages;
        gang.referenced_pages += vm->referenced_pages;
        gang.patched_pages += vm->patched_pages;
        gang.delta_pages += vm->delta_pages;
        const double weight = std::max(static_cast<double>(vm->ram_bytes), 1.0);
        done += weight * vm->percent();
        last_round = std::max(last_round, vm->round);
        all += weight;
        gang.completed += vm->outcome == Outcome::kCompleted;
        gang.failed += vm->outcome == Outcome::kFailed || vm->outcome == Outcome::kCancelled;
        if (vm->over()) {
            continue;
        }
        gang.remaining_bytes += vm->remaining_bytes;
        gang.rate += vm->rate;
        gang.dirty_rate += vm->dirty_rate;
        gang.left_ms = std::max(gang.left_ms, vm->left_ms);
        told &= vm->left_ms >= 0;
        auto phase = static_cast<size_t>(
            std::find(std::begin(kPhases), std::end(kPhases), vm->phase) - std::begin(kPhases));
        if (gang.phase.empty() || phase < least) {
            least = phase;
            gang.phase = vm->phase;
        }
        gang.round = gang.round ? std::min(gang.round, vm->round) : vm->round;
    }
    if (!told) {
        gang.left_ms = -1;
    }
    bool ended = gang.completed + gang.failed == vms.size();
    if (ended) {
        gang.phase = "ended";
        gang.round = last_round;
        gang.left_ms = 0;
    }
    percent_ = std::max(percent_, std::min(done / std::max(all, 1.0), kNearly));
    gang.percent = gang.completed == vms.size() ? 100 : percent_;
    return gang;
}

json FiguresJson(const Vm &vm) {
    return {{"status", vm.status()},
            {"phase", vm.phase},
            {"percent", vm.percent()},
            {"round", vm.round},
            {"wire_bytes", vm.wire_bytes},
            {"saved_bytes", vm.saved_bytes},
            {"remaining_bytes", vm.remaining_bytes},
            {"bytes_per_second", static_cast<uint64_t>(vm.rate)},
            {"dirty_bytes_per_second", static_cast<uint64_t>(vm.dirty_rate)},
            {"estimated_ms", LeftJson(vm.over() ? 0 : vm.left_ms)},
            {"zero_pages", vm.zero_pages},
            {"literal_pages", vm.literal_pages},
            {"published_pages", vm.published_pages},
            {"referenced_pages", vm.referenced_pages},
            {"patched_pages", vm.patched_pages},
            {"delta_pages", vm.delta_pages}};
}

json FiguresJson(const GangFigures &gang) {
    return {{"phase", gang.phase},
            {"percent", gang.percent},
            {"round", gang.round},
            {"wire_bytes", gang.wire_bytes},
            {"saved_bytes", gang.saved_bytes},
            {"remaining_bytes", gang.remaining_bytes},
            {"bytes_per_second", static_cast<uint64_t>(gang.rate)},
            {"dirty_bytes_per_second", static_cast<uint64_t>(gang.dirty_rate)},
            {"estimated_ms", LeftJson(gang.left_ms)},
            {"zero_pages", gang.zero_pages},
            {"literal_pages", gang.literal_pages},
            {"published_pages", gang.published_pages},
            {"referenced_pages", gang.referenced_pages},
            {"patched_pages", gang.patched_pages},
            {"delta_pages", gang.delta_pages},
            {"completed", gang.completed},
            {"failed", gang.failed}};
}

} // namespace gangctl
