// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What an operator says of a gang beforehand or while it moves: its bandwidth, its
// turns, how many are in their first round, and who is expected.

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "control_message.h"
#include "coordinator.h"

namespace gangd {

using nlohmann::json;

namespace {

constexpr size_t kMaxAnnounced = 256; // gangs that nobody has joined yet

} // namespace

Refusal Coordinator::Set(const Peer &peer, const json &request, uint64_t now_ms) {
    std::string id;
    Order order;
    if (!gang::GetString(request, "gang", &id) || !gang::ValidName(id)) {
        return {"invalid", "'gang' must be 1 to 64 of A-Z a-z 0-9 . _ : -"};
    }
    struct {
        const char *key;
        uint64_t max;
        std::optional<uint64_t> *value;
    } const numbers[] = {{"max-bandwidth", gang::Budget::kMaxRate, &order.max_bandwidth},
                         {"bulk-members", gang::kMaxMembers, &order.bulk_members},
                         {"turn-limit", gang::Turns::kMaxTurnMs, &order.turn_ms}};
    for (const auto &number : numbers) {
        uint64_t value = 0;
        if (!request.contains(number.key)) {
            continue;
        }
        if (!gang::GetUint(request, number.key, number.max, &value)) {
            return {"invalid", fmt::format("'{}' must be an integer of 0 to {}", number.key,
                                           number.max)};
        }
        *number.value = value;
    }
    if (auto names = request.find("expect"); names != request.end()) {
        if (!names->is_array() || names->size() > gang::kMaxMembers) {
            return {"invalid", "'expect' must be a list of at most 128 member names"};
        }
        for (const json &name : *names) {
            if (!name.is_string() || !gang::ValidName(name.get_ref<const std::string &>())) {
                return {"invalid", "'expect' must be a list of at most 128 member names"};
            }
            order.expect.insert(name.get<std::string>());
        }
    }
    order.owner = peer.uid();
    order.until_ms = now_ms + std::max<uint64_t>(limits_.barrier_ms, 60000);
    const bool trusted = peer.uid() == 0 || peer.uid() == geteuid();
    if (auto it = sources_.find(id); it != sources_.end()) {
        if (!trusted) {
            if (Refusal refusal = CheckOwner(*it->second, peer)) {
                return refusal;
            }
        }
        it->second->order.Add(order);
        ApplyOrder(it->second.get());
        return {};
    }
    std::erase_if(announced_, [&](const auto &a) { return a.second.until_ms <= now_ms; });
    auto it = announced_.find(id);
    if (it != announced_.end() && it->second.owner != peer.uid() && !trusted) {
        return {"denied", "gang " + id + " was announced by another user: use another gang id"};
    }
    if (it == announced_.end() && announced_.size() >= kMaxAnnounced) {
        return {"limit", "too many gangs are announced that nobody has joined"};
    }
    // What another user said of it goes: neither is told whose word is whose.
    if (it != announced_.end() && it->second.owner != order.owner) {
        it->second = order;
    } else {
        announced_[id].Add(order);
    }
    return {};
}

void Coordinator::Order::Add(const Order &other) {
    max_bandwidth = other.max_bandwidth ? other.max_bandwidth : max_bandwidth;
    bulk_members = other.bulk_members ? other.bulk_members : bulk_members;
    turn_ms = other.turn_ms ? other.turn_ms : turn_ms;
    if (!other.expect.empty()) {
        expect = other.expect;
    }
    owner = other.owner;
    until_ms = other.until_ms;
}

// Its first member has come: what was said of it before holds, if one said it who may.
void Coordinator::TakeAnnounced(Gang *gang, uint64_t now_ms) {
    auto it = announced_.find(gang->id);
    if (it == announced_.end()) {
        return;
    }
    const Order &order = it->second;
    if (order.until_ms > now_ms &&
        (order.owner == 0 || order.owner == geteuid() || order.owner == gang->owner)) {
        gang->order.Add(order);
    }
    announced_.erase(it);
}

// Once: what members themselves set later stays.
void Coordinator::ApplyOrder(Gang *gang) {
    if (!gang->board) {
        return;
    }
    gang::BoardHeader &h = gang->board->header();
    Order &order = gang->order;
    auto apply = [&](gang::Atomic<uint64_t> *word, std::optional<uint64_t> *value,
                     const char *what) {
        if (*value) {
            spdlog::info("gang {}: {} is {}", gang->id, what, **value);
            word->store(**value, std::memory_order_relaxed);
            value->reset();
        }
    };
    apply(&h.budget, &order.max_bandwidth, "max-bandwidth");
    apply(&h.bulk_limit, &order.bulk_members, "bulk-members");
    apply(&h.turn_ms, &order.turn_ms, "turn-limit");
}

// Of a gang whose members were announced.
std::vector<std::string> Coordinator::Missing(const Gang &gang) {
    std::vector<std::string> names;
    for (const std::string &name : gang.order.expect) {
        if (std::none_of(gang.members.begin(), gang.members.end(),
                         [&](const auto &m) { return m->name == name; })) {
            names.push_back(name);
        }
    }
    return names;
}

std::string Coordinator::MissingText(const Gang &gang) {
    std::vector<std::string> names = Missing(gang);
    constexpr size_t kMost = 8; // in a line of the log
    std::string text = fmt::format(
        "{}", fmt::join(names.begin(), names.begin() + std::min(names.size(), kMost), ", "));
    return names.size() > kMost ? text + fmt::format(" and {} more", names.size() - kMost) : text;
}

} // namespace gangd
