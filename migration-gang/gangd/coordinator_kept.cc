// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Stores of gangs that failed or were cancelled, kept for a while so that the next
// attempt need not send again what they hold.

#include "coordinator.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include <spdlog/spdlog.h>

#include "control_message.h"

namespace gangd {

using nlohmann::json;

Coordinator::~Coordinator() {
    while (!kept_.empty()) {
        Drop(kept_.begin(), "gangd ends");
    }
}

// The last member of an incoming gang has left.  False: there is nothing to keep.
bool Coordinator::Keep(const std::string &key, Gang *gang) {
    if (limits_.keep_ms == 0 || !gang->store || gang->store_fd < 0 ||
        gang->store->slots_used() == 0 ||
        std::all_of(gang->members.begin(), gang->members.end(),
                    [](const auto &m) { return m->state == "completed"; })) {
        return false;
    }
    // Members, who may lie, have counted its slots: that decides nothing else.
    while (kept_.size() >= limits_.max_gangs) {
        Drop(Oldest(), "too many are kept");
    }
    Kept kept;
    kept.id = gang->id;
    kept.owner = gang->owner;
    kept.fd = std::exchange(gang->store_fd, -1);
    kept.store = std::move(gang->store);
    kept.since = ++keeps_;
    spdlog::info("gang {}: its store of {} bytes is kept for {} s, for another attempt", gang->id,
                 std::min(kept.store->slots_used(), kept.store->slots()) * gang::kPageSize,
                 limits_.keep_ms / 1000);
    kept_[key] = std::move(kept);
    return true;
}

// Gives a gang that begins the store that an attempt before has left, if the
// owner and the hash are the same; else what was kept is dropped.
void Coordinator::Resume(const std::string &key, Gang *gang, gang::HashKind wanted) {
    auto it = kept_.find(key);
    if (it == kept_.end()) {
        return;
    }
    const Kept &kept = it->second;
    if (kept.owner != gang->owner) {
        Drop(it, "another user names its gang");
        return;
    }
    if (wanted != gang::HashKind::kInvalid && wanted != kept.store->hash_kind()) {
        Drop(it, "another hash is asked for");
        return;
    }
    // The open file is one for all who have had the descriptor, and so are its flags: with
    // this one nobody could write to the store.
    if (const int flags = fcntl(kept.fd, F_GETFL); flags < 0 || flags & O_APPEND) {
        Drop(it, "a member has made it unusable (O_APPEND)");
        return;
    }
    if (gang::Status status = gang::Store::Renew(kept.fd, *kept.store); !status.ok()) {
        spdlog::error("gang {}: {}", kept.id, status.message());
        Drop(it, "it cannot be used");
        return;
    }
    spdlog::info("gang {}: goes on with the {} slots of its store that an attempt before filled",
                 kept.id, kept.store->slots_used());
    gang->store_fd = std::exchange(it->second.fd, -1);
    gang->store = std::move(it->second.store);
    kept_.erase(it);
}

// There is one, `of` that user if it is given.
std::map<std::string, Coordinator::Kept>::iterator
Coordinator::Oldest(std::optional<uid_t> of) {
    auto rank = [&](const Kept &kept) {
        return std::pair(of && kept.owner != *of, kept.since);
    };
    return std::min_element(kept_.begin(), kept_.end(), [&](const auto &a, const auto &b) {
        return rank(a.second) < rank(b.second);
    });
}

// How many of `wanted` slots a store of `user` may have.  What is kept counts as what is in
// use does, and less is kept, the oldest first, as far as they need it: of this user's own
// where its part of `total` is used up, then of anybody's.
uint64_t Coordinator::MakeRoom(uid_t user, uint64_t wanted, uint64_t total) {
    const uint64_t part = PartOf(user, total);
    uint64_t given = 0, own = 0, own_kept = 0;
    auto add = [&](const gang::Store &store, uid_t owner) {
        given += store.slots();
        own += owner == user ? store.slots() : 0;
    };
    for (const auto &[id, other] : destinations_) {
        if (other->store) {
            add(*other->store, other->owner);
        }
    }
    for (const auto &[key, kept] : kept_) {
        add(*kept.store, kept.owner);
        own_kept += kept.owner == user;
    }
    auto fits = [&](uint64_t used, uint64_t all) { return used <= all && wanted <= all - used; };
    for (; own_kept && !fits(own, part); own_kept--) {
        auto oldest = Oldest(user);
        given -= oldest->second.store->slots();
        own -= oldest->second.store->slots();
        Drop(oldest, "another gang of its user needs the memory");
    }
    wanted = std::min(wanted, part > own ? part - own : 0);
    while (!kept_.empty() && !fits(given, total)) {
        auto oldest = Oldest();
        given -= oldest->second.store->slots();
        Drop(oldest, "another gang needs the memory");
    }
    return std::min(wanted, total > given ? total - given : 0);
}

void Coordinator::Drop(std::map<std::string, Kept>::iterator it, const char *why) {
    Kept &kept = it->second;
    spdlog::info("gang {}: the store that was kept is dropped: {}", kept.id, why);
    kept.store.reset();
    if (wipe_) {
        wipe_(std::exchange(kept.fd, -1));
    }
    kept_.erase(it);
}

size_t Coordinator::Forget(const std::string &id) {
    size_t dropped = 0;
    for (auto it = kept_.begin(); it != kept_.end();) {
        auto next = std::next(it);
        if (id.empty() || it->second.id == id) {
            Drop(it, "an operator asked for it");
            dropped++;
        }
        it = next;
    }
    return dropped;
}

void Coordinator::TickKept(uint64_t now_ms) {
    now_ms_ = now_ms;
    for (auto it = kept_.begin(); it != kept_.end();) {
        auto next = std::next(it);
        Kept &kept = it->second;
        if (kept.until_ms == 0) {
            kept.until_ms = now_ms + limits_.keep_ms;
        } else if (now_ms >= kept.until_ms) {
            Drop(it, "nobody came for it in time");
        }
        it = next;
    }
}

uint64_t Coordinator::LeftMs(const Kept &kept) const {
    return kept.until_ms == 0 ? limits_.keep_ms : kept.until_ms - std::min(kept.until_ms, now_ms_);
}

json Coordinator::KeptStatus() const {
    json list = json::array();
    for (const auto &[key, kept] : kept_) {
        if (list.size() == kMaxKeptShown) {
            break;
        }
        const uint64_t used = std::min(kept.store->slots_used(), kept.store->slots());
        list.push_back({{"gang", kept.id},
                        {"hash", gang::HashKindText(kept.store->hash_kind())},
                        {"slots", kept.store->slots()},
                        {"slots-used", used},
                        {"store-bytes", used * gang::kPageSize},
                        {"seconds-left", LeftMs(kept) / 1000}});
    }
    return list;
}

Coordinator::Kept &Coordinator::Kept::operator=(Kept &&other) noexcept {
    if (this != &other) {
        if (fd >= 0) {
            close(fd);
        }
        id = std::move(other.id);
        owner = other.owner;
        fd = std::exchange(other.fd, -1);
        store = std::move(other.store);
        until_ms = other.until_ms;
        since = other.since;
    }
    return *this;
}

Coordinator::Kept::~Kept() {
    if (fd >= 0) {
        close(fd);
    }
}

} // namespace gangd
