// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What a peer may take of the host and of a gang, so that the others have theirs:
// docs/security.md.

#include "coordinator.h"

#include <algorithm>
#include <set>

namespace gangd {

// What one user's processes take is not taken from those of others.
Refusal Coordinator::CheckNewGang(const Peer &peer) const {
    if (gang_count() >= limits_.max_gangs) {
        return {"limit", "this host has " + std::to_string(gang_count()) +
                             " gangs under way, as many as max-gangs allows"};
    }
    size_t own = 0;
    for (const Gangs *role : {&sources_, &destinations_}) {
        own += static_cast<size_t>(std::count_if(role->begin(), role->end(), [&](const auto &g) {
            return g.second->owner == peer.uid();
        }));
    }
    if (peer.uid() != 0 && own >= limits_.max_user_gangs) {
        return {"limit", "user " + std::to_string(peer.uid()) + " has " + std::to_string(own) +
                             " gangs under way, as many as max-user-gangs allows"};
    }
    return {};
}

// Who joins a gang can read what its VMs have in common.
Refusal Coordinator::CheckOwner(const Gang &gang, const Peer &peer) const {
    if (gang.owner != peer.uid() && !limits_.across_users) {
        return {"denied", "gang " + gang.id +
                              " is of another user: use another gang id, or set "
                              "share-across-users in gangd's configuration"};
    }
    return {};
}

Refusal Coordinator::CheckMembers(const Gang &gang, const std::string &name,
                                  uint64_t members) const {
    if (gang.expected != members) {
        return {"invalid", "this gang was announced with " + std::to_string(gang.expected) +
                               " members, not " + std::to_string(members) +
                               ": give all its VMs the same gang-members, or use another gang id"};
    }
    auto others = std::count_if(gang.members.begin(), gang.members.end(), [&](const auto &m) {
        return m->peer != nullptr && m->name != name;
    });
    if (static_cast<uint64_t>(others) >= members) {
        return {"limit", "gang " + gang.id + " has all the " + std::to_string(members) +
                             " members it was announced with: use another gang id"};
    }
    return {};
}

// Each store takes a directory, with address space and descriptors, until the gang ends:
// also when whoever named it has left, and comes again under that name with another one.
Refusal Coordinator::CheckStores(const Gang *gang, const std::string &name,
                                 const gang::Uuid &store) const {
    if (gang) {
        std::set<gang::Uuid> stores = {store};
        for (const auto &m : gang->members) {
            stores.insert(m->share.store_uuid);
        }
        for (const auto &[uuid, share] : gang->shares) {
            stores.insert(uuid);
        }
        if (stores.size() > kMaxStoresOfGang) {
            return {"limit", "gang " + gang->id + " has " + std::to_string(kMaxStoresOfGang) +
                                 " stores already: a gang goes to one host"};
        }
    }
    if (!limits_.intra_vm) {
        return {};
    }
    // This host cannot part what the other keeps in one store.
    for (const auto &[id, other] : sources_) {
        for (const auto &m : other->members) {
            if (m->share.store_uuid == store && m->name != name) {
                return {"incompatible", "VMs may not share here (intra-vm-only), but the "
                                        "destination gives several VMs one store: set "
                                        "intra-vm-only in its gangd's configuration too"};
            }
        }
    }
    return {};
}

// A quarter is for others than one user, who is not root.
uint64_t Coordinator::PartOf(uid_t user, uint64_t all) {
    return user == 0 ? all : all - all / 4;
}

Refusal Coordinator::CheckRam(const Peer &peer, uint64_t process, uint64_t pages) const {
    if (pages == 0 || pages > limits_.max_member_pages) {
        return {"limit", "'ram-pages' must be 1 to " + std::to_string(limits_.max_member_pages) +
                             " (max-ram)"};
    }
    uint64_t all = 0, own = 0, of_user = 0; // each claim is bounded, and so are the members: no overflow
    for (const auto &[id, gang] : sources_) {
        for (const auto &m : gang->members) {
            if (m->peer) {
                all += m->share.gang_pages;
                of_user += m->peer->uid() == peer.uid() ? m->share.gang_pages : 0;
                own += process != 0 && m->process == process ? m->share.gang_pages : 0;
            }
        }
    }
    if (own > limits_.max_member_pages - pages) {
        return {"limit", "this process has claimed RAM of " + std::to_string(own) +
                             " pages already; with 'ram-pages' it passes max-ram"};
    }
    if (all > limits_.max_total_pages || pages > limits_.max_total_pages - all) {
        return {"limit", "the outgoing VMs of this host have RAM of " + std::to_string(all) +
                             " pages; with 'ram-pages' they pass max-total-ram"};
    }
    // One VM as large as max-ram allows is no crowd.
    const uint64_t part =
        std::max(PartOf(peer.uid(), limits_.max_total_pages), limits_.max_member_pages);
    if (peer.uid() != 0 && (of_user > part || pages > part - of_user)) {
        return {"limit", "the outgoing VMs of user " + std::to_string(peer.uid()) +
                             " have RAM of " + std::to_string(of_user) +
                             " pages; with 'ram-pages' they pass three quarters of max-total-ram"};
    }
    return {};
}

} // namespace gangd
