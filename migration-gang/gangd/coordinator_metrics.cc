// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Gangs and members as Prometheus reads them: the text format, version 0.0.4.
// Names need no escapes: those of gangs and members are checked when they come.

#include "coordinator.h"

#include <algorithm>
#include <functional>
#include <string>

#include <spdlog/fmt/fmt.h>

namespace gangd {

using gang::kPageSize;
using gang::Stat;

namespace {

// Collects one family after the other; one without samples is left out.
class Families {
  public:
    void Begin(const char *name, const char *type, const char *help) {
        name_ = name;
        head_ = fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
    }
    void Sample(const std::string &labels, double value) {
        text_ += head_ + fmt::format("{}{{{}}} {:.15g}\n", name_, labels, value);
        head_.clear();
    }
    std::string Take() { return std::move(text_); }

  private:
    std::string name_, head_, text_;
};

constexpr struct {
    const char *kind;
    Stat stat;
} kPages[] = {{"zero", Stat::kZeroPages},           {"literal", Stat::kLiteralPages},
              {"published", Stat::kPublishedPages}, {"referenced", Stat::kReferencedPages},
              {"patched", Stat::kPatchedPages},     {"delta", Stat::kDeltaPages},
              {"deferred", Stat::kDeferredPages},   {"stalled", Stat::kStalledPages},
              {"store-full", Stat::kStoreFullPages}};

// One number of a member: its counter times `scale`.
constexpr struct {
    const char *name, *type, *help;
    Stat stat;
    double scale;
} kFigures[] = {
    {"gang_member_wire_bytes_total", "counter", "Bytes that the member's migration has sent.",
     Stat::kWireBytes, 1},
    {"gang_member_remaining_bytes", "gauge", "Memory still to be sent in this round.",
     Stat::kRemainingPages, kPageSize},
    {"gang_member_wire_bytes_per_second", "gauge", "Bytes a second on the wire.", Stat::kByteRate,
     1},
    {"gang_member_dirty_bytes_per_second", "gauge", "Bytes a second that the guest writes.",
     Stat::kDirtyRate, 1},
    {"gang_member_round", "gauge", "Precopy round.", Stat::kRound, 1},
    {"gang_member_progress_ratio", "gauge",
     "Part of what has to be sent that has been; never goes back.", Stat::kProgress, 0.001},
};

} // namespace

std::string Coordinator::Metrics() const {
    using Each = std::function<void(const Gang &, const Member &, const std::string &)>;
    auto label = [](const Gang &gang, const char *role) {
        return fmt::format("gang=\"{}\",role=\"{}\"", gang.id, role);
    };
    // Members of outgoing gangs that have a directory, and so figures.
    auto each_source = [&](const Each &each) {
        for (const auto &[id, gang] : sources_) {
            for (const auto &member : gang->members) {
                if (member->granted) {
                    each(*gang, *member,
                         fmt::format("gang=\"{}\",member=\"{}\"", gang->id, member->name));
                }
            }
        }
    };
    auto figure = [](const Member &member, Stat stat) {
        return member.granted->directory->stat(member.index, stat);
    };
    Families out;
    out.Begin("gangd_info", "gauge", "This coordinator.");
    out.Sample("version=\"" GANG_VERSION "\"", 1);

    out.Begin("gang_members", "gauge", "Members that are connected.");
    for (const auto &[id, gang] : sources_) {
        out.Sample(label(*gang, "source"), static_cast<double>(Alive(*gang)));
    }
    for (const auto &[id, gang] : destinations_) {
        out.Sample(label(*gang, "destination"), static_cast<double>(Alive(*gang)));
    }
    out.Begin("gang_members_expected", "gauge", "Members that an outgoing gang waits for.");
    for (const auto &[id, gang] : sources_) {
        out.Sample(label(*gang, "source"), static_cast<double>(gang->expected));
    }
    out.Begin("gang_progress_ratio", "gauge",
              "Progress of the members, weighted by their RAM; never goes back "
              "while this coordinator runs.");
    for (const auto &[id, gang] : sources_) {
        double done = 0, all = 0;
        for (const auto &member : gang->members) {
            auto pages = static_cast<double>(member->share.gang_pages);
            all += pages;
            done += member->granted
                        ? pages * static_cast<double>(figure(*member, Stat::kProgress)) / 1000
                        : 0;
        }
        gang->progress = std::max(gang->progress, all > 0 ? std::min(done / all, 1.0) : 0);
        out.Sample(label(*gang, "source"), gang->progress);
    }
    out.Begin("gang_store_slots", "gauge", "Pages that an incoming gang's store may hold.");
    for (const auto &[id, gang] : destinations_) {
        out.Sample(label(*gang, "destination"),
                   gang->store ? static_cast<double>(gang->store->slots()) : 0);
    }
    out.Begin("gang_store_slots_used", "gauge", "Pages that it holds.");
    for (const auto &[id, gang] : destinations_) {
        out.Sample(label(*gang, "destination"),
                   gang->store ? static_cast<double>(
                                     std::min(gang->store->slots_used(), gang->store->slots()))
                               : 0);
    }
    out.Begin("gang_store_kept_bytes", "gauge",
              "What is kept of a gang that failed, for another attempt.");
    for (const auto &[key, kept] : kept_) {
        out.Sample(fmt::format("gang=\"{}\"", key),
                   static_cast<double>(std::min(kept.store->slots_used(), kept.store->slots())) *
                       kPageSize);
    }
    out.Begin("gang_store_kept_seconds_left", "gauge", "For how long it will be.");
    for (const auto &[key, kept] : kept_) {
        out.Sample(fmt::format("gang=\"{}\"", key), static_cast<double>(LeftMs(kept)) / 1000);
    }

    out.Begin("gang_member_phase", "gauge", "1 for the phase that the member is in.");
    each_source([&](const Gang &, const Member &member, const std::string &who) {
        out.Sample(fmt::format("{},phase=\"{}\"", who, PhaseOf(member)), 1);
    });
    out.Begin("gang_member_ram_bytes", "gauge", "RAM of the member.");
    each_source([&](const Gang &, const Member &member, const std::string &who) {
        out.Sample(who, static_cast<double>(member.share.gang_pages) * kPageSize);
    });
    out.Begin("gang_member_pages_total", "counter",
              "Pages by what became of them; one may count as several kinds.");
    each_source([&](const Gang &, const Member &member, const std::string &who) {
        for (const auto &pages : kPages) {
            out.Sample(fmt::format("{},kind=\"{}\"", who, pages.kind),
                       static_cast<double>(figure(member, pages.stat)));
        }
    });
    for (const auto &known : kFigures) {
        out.Begin(known.name, known.type, known.help);
        each_source([&](const Gang &, const Member &member, const std::string &who) {
            out.Sample(who, static_cast<double>(figure(member, known.stat)) * known.scale);
        });
    }
    out.Begin("gang_member_saved_bytes", "gauge",
              "Size of the pages sent that were not zero, less what they took on the wire.");
    each_source([&](const Gang &, const Member &member, const std::string &who) {
        const uint64_t zero = figure(member, Stat::kZeroPages);
        const uint64_t all = std::max(figure(member, Stat::kHandledPages), zero);
        const double size = static_cast<double>(all - zero) * kPageSize;
        out.Sample(who,
                   std::max(0.0, size - static_cast<double>(figure(member, Stat::kPayloadBytes) +
                                                            figure(member, Stat::kMetadataBytes))));
    });
    out.Begin("gang_member_estimated_seconds", "gauge",
              "Time until the end at the present rates; absent if they do not tell.");
    each_source([&](const Gang &, const Member &member, const std::string &who) {
        const uint64_t left = figure(member, Stat::kLeftMs);
        if (left != UINT64_MAX && figure(member, Stat::kHandledPages) > 0) {
            out.Sample(who, static_cast<double>(left) / 1000);
        }
    });
    return out.Take();
}

} // namespace gangd
