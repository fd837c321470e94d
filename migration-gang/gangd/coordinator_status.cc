// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What `status` shows of gangs and members, a page at a time.

#include "coordinator.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include "control_message.h"

namespace gangd {

using gang::Stat;
using nlohmann::json;

namespace {

// What keeps a page below the size of a message: a member takes less than 1.4 KiB,
// a store less than 300 bytes, a gang that has none of either less than 900.
constexpr size_t kMembersOfPage = 24;
constexpr size_t kStoresOfGang = 16;
constexpr size_t kMissingOfGang = 8;

// Names of Phase, and of the counters that status shows.
constexpr const char *kPhases[] = {"joining",    "scanning",  "barrier", "migrating",
                                   "switchover", "completed", "failed"};
constexpr struct {
    const char *name;
    Stat stat;
} kCounters[] = {
    {"scanned-pages", Stat::kScannedPages},
    {"scan-zero-pages", Stat::kScanZeroPages},
    {"scan-duplicate-pages", Stat::kScanDuplicates},
    {"zero-pages", Stat::kZeroPages},
    {"literal-pages", Stat::kLiteralPages},
    {"published-pages", Stat::kPublishedPages},
    {"referenced-pages", Stat::kReferencedPages},
    {"deferred-pages", Stat::kDeferredPages},
    {"stalled-pages", Stat::kStalledPages},
    {"store-full-pages", Stat::kStoreFullPages},
    {"takeovers", Stat::kTakeovers},
    {"patched-pages", Stat::kPatchedPages},
    {"delta-pages", Stat::kDeltaPages},
    {"delta-bytes", Stat::kDeltaBytes},
    {"own-base-pages", Stat::kOwnPages},
    {"payload-bytes", Stat::kPayloadBytes},
    {"metadata-bytes", Stat::kMetadataBytes},
    {"remaining-pages", Stat::kRemainingPages},
    {"round", Stat::kRound},
    {"handled-pages", Stat::kHandledPages},
    {"wire-bytes", Stat::kWireBytes},
    {"bytes-per-second", Stat::kByteRate},
    {"dirty-bytes-per-second", Stat::kDirtyRate},
    {"progress-permille", Stat::kProgress},
};

} // namespace

// What its process last wrote: shown, never relied on.
const char *Coordinator::PhaseOf(const Member &member) {
    if (!member.granted) {
        return kPhases[0];
    }
    uint64_t phase = member.granted->directory->stat(member.index, Stat::kPhase);
    return phase < std::size(kPhases) ? kPhases[phase] : "unknown";
}

json Coordinator::MemberStatus(const Gang &gang, const Member &member) {
    json status = {{"member", member.name}, {"pid", member.pid}, {"state", member.state}};
    if (gang.store) {
        return status;
    }
    status["phase"] = PhaseOf(member);
    status["ram-pages"] = member.share.gang_pages;
    if (member.granted) {
        status["index"] = member.index;
        for (const auto &counter : kCounters) {
            status[counter.name] = member.granted->directory->stat(member.index, counter.stat);
        }
    }
    return status;
}

// Whose turn it is; empty: nobody's.
std::string Coordinator::TurnHolder(const Gang &gang) {
    const uint64_t holder = gang.board->header().turn.load(std::memory_order_relaxed) & 0xff;
    for (const auto &m : gang.members) {
        if (holder != 0 && m->has_board && m->board_index == holder - 1) {
            return m->name;
        }
    }
    return "";
}

json Coordinator::GangStatus(const Gang &gang) {
    if (gang.store) {
        uint64_t used = std::min(gang.store->slots_used(), gang.store->slots());
        return {{"gang", gang.id},
                {"role", "destination"},
                {"hash", gang::HashKindText(gang.store->hash_kind())},
                {"slots", gang.store->slots()},
                {"slots-used", used},
                {"store-bytes", used * gang::kPageSize}};
    }
    // The least advanced of those who are there.
    const char *phase = kPhases[std::size(kPhases) - 1];
    for (const char *candidate : kPhases) {
        if (std::any_of(gang.members.begin(), gang.members.end(),
                        [&](const auto &m) { return m->peer && PhaseOf(*m) == candidate; })) {
            phase = candidate;
            break;
        }
    }
    json stores = json::array();
    for (const auto &[uuid, share] : gang.shares) {
        if (share && stores.size() < kStoresOfGang) {
            stores.push_back({{"store", gang::ToHex(uuid)},
                              {"hash", gang::HashKindText(share->directory->hash_kind())},
                              {"directory-bytes", share->directory->size()},
                              {"mirror-bytes",
                               share->directory->mirror_used() * gang::kPageSize},
                              {"entries", share->entries},
                              {"entries-used", share->directory->header().entries_used.load(
                                                   std::memory_order_relaxed)},
                              {"slots", share->slots},
                              {"slots-taken", share->directory->slots_taken()}});
        }
    }
    json status = {{"gang", gang.id},
                   {"role", "source"},
                   {"members-expected", gang.expected},
                   {"phase", phase},
                   {"stores", std::move(stores)}};
    status["switchover"] = PolicyStatus(gang);
    if (!gang.order.expect.empty()) {
        std::vector<std::string> missing = Missing(gang);
        missing.resize(std::min(missing.size(), kMissingOfGang));
        status["missing"] = std::move(missing);
    }
    if (gang.board) {
        const gang::BoardHeader &h = gang.board->header();
        status["max-bandwidth"] = h.budget.load(std::memory_order_relaxed);
        status["bulk-members"] = h.bulk_limit.load(std::memory_order_relaxed);
        status["turn-limit"] = h.turn_ms.load(std::memory_order_relaxed);
        status["turn"] = TurnHolder(gang);
    }
    return status;
}

// The cursor counts members over all gangs in their fixed order: a gang that
// comes or goes between two pages may make members show twice or not at all.
json Coordinator::Status(const std::string &after) const {
    size_t skip = 0;
    const char *end = after.data() + after.size();
    if (std::from_chars(after.data(), end, skip).ptr != end) {
        skip = 0;
    }
    size_t total = 0;
    for (const Gangs *role : {&sources_, &destinations_}) {
        for (const auto &[id, gang] : *role) {
            total += gang->members.size();
        }
    }
    json gangs = json::array();
    size_t seen = 0, taken = 0;
    for (const Gangs *role : {&sources_, &destinations_}) {
        for (const auto &[id, gang] : *role) {
            if (seen + gang->members.size() <= skip) {
                seen += gang->members.size();
                continue;
            }
            const bool continued = seen < skip;
            json members = json::array();
            for (size_t i = continued ? skip - seen : 0;
                 i < gang->members.size() && taken < kMembersOfPage; i++, taken++) {
                members.push_back(MemberStatus(*gang, *gang->members[i]));
            }
            seen = (continued ? skip : seen) + members.size();
            json entry = GangStatus(*gang);
            entry["members"] = std::move(members);
            if (continued) {
                entry["continued"] = true;
            }
            gangs.push_back(std::move(entry));
            if (taken == kMembersOfPage) {
                json page = {{"gangs", std::move(gangs)}};
                if (seen < total) {
                    page["next"] = std::to_string(seen);
                }
                return page;
            }
        }
    }
    return {{"gangs", std::move(gangs)}};
}

} // namespace gangd
