// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Admission, the two barriers, and farewell; coordinator_status.cc has the rest.

#include "coordinator.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include <spdlog/spdlog.h>

#include "control_message.h"

namespace gangd {

using nlohmann::json;

namespace {

constexpr const char *kUnknownHash = "unknown hash kind; this gangd knows xxh3-128 and sha256";
constexpr uint64_t kMaxGangPages = uint64_t{1} << 36; // what a directory can have
constexpr uint64_t kSlotBytes = gang::kPageSize + sizeof(gang::SlotMeta);

Refusal Invalid(const std::string &text) {
    return {"invalid", text};
}

const char *WireCode(const gang::Status &status) {
    switch (status.code()) {
    case gang::Code::kInvalid:
        return "invalid";
    case gang::Code::kIncompatible:
        return "incompatible";
    case gang::Code::kExhausted:
        return "limit";
    default:
        return "internal";
    }
}

} // namespace

Coordinator::Share::~Share() {
    if (fd >= 0) {
        close(fd);
    }
}

Coordinator::Gang::~Gang() {
    for (int fd : {store_fd, board_fd}) {
        if (fd >= 0) {
            close(fd);
        }
    }
}

size_t Coordinator::Alive(const Gang &gang) {
    return static_cast<size_t>(std::count_if(gang.members.begin(), gang.members.end(),
                                             [](const auto &m) { return m->peer != nullptr; }));
}

size_t Coordinator::member_count() const {
    size_t count = 0;
    for (const Gangs *role : {&sources_, &destinations_}) {
        for (const auto &[id, gang] : *role) {
            count += Alive(*gang);
        }
    }
    return count;
}

std::string Coordinator::KeyOf(const std::string &id, const std::string &name) const {
    return limits_.intra_vm ? id + '/' + name : id;
}

// What joins of both roles have in common.
Refusal Coordinator::Admit(Gangs *gangs, Peer *peer, uint64_t pid, const json &request, Gang **gang,
                           Member **member, std::string key) {
    std::string id, name;
    uint64_t page_size = 0;
    if (!gang::GetString(request, "gang", &id) || !gang::ValidName(id)) {
        return Invalid("'gang' must be 1 to 64 of A-Z a-z 0-9 . _ : -");
    }
    if (!gang::GetString(request, "member", &name) || !gang::ValidName(name)) {
        return Invalid("'member' must be 1 to 64 of A-Z a-z 0-9 . _ : -");
    }
    if (!gang::GetUint(request, "page-size", UINT32_MAX, &page_size) ||
        page_size != gang::kPageSize) {
        return {"incompatible", "only pages of 4096 bytes can be shared"};
    }
    const uint64_t process = pid;
    if (pid == 0) {
        // Of another pid namespace: its own word is better than none, for status.
        gang::GetUint(request, "pid", INT32_MAX, &pid);
    }
    // No id has a '/': alone with its store, whatever gang it names.
    if (key.empty()) {
        key = gangs == &destinations_ ? KeyOf(id, name) : id;
    }
    auto it = gangs->find(key);
    if (it == gangs->end()) {
        if (Refusal refusal = CheckNewGang(*peer)) {
            return refusal;
        }
        it = gangs->emplace(key, std::make_unique<Gang>()).first;
        it->second->id = id;
        it->second->owner = peer->uid();
    }
    Gang *g = it->second.get();
    if (Refusal refusal = CheckOwner(*g, *peer)) {
        return refusal;
    }
    auto same = std::find_if(g->members.begin(), g->members.end(),
                             [&](const auto &m) { return m->name == name; });
    if (same != g->members.end()) {
        if ((*same)->peer) {
            return {"exists", "gang " + id + " has a member " + name +
                                  " already: give each VM a name of its own (-name)"};
        }
        g->members.erase(same);
    }
    if (g->members.size() >= gang::kMaxMembers) {
        return {"limit", "gang " + id + " has had " + std::to_string(g->members.size()) +
                             " members: use another gang id"};
    }
    auto m = std::make_unique<Member>();
    m->peer = peer;
    m->name = name;
    m->pid = pid;
    m->process = process;
    *member = m.get();
    *gang = g;
    g->members.push_back(std::move(m));
    return {};
}

Refusal Coordinator::CheckSource(Peer *peer, uint64_t pid, const json &request,
                                 uint64_t *members_out, gang::DirectoryConfig *share_out,
                                 gang::SwitchoverPolicy *policy) const {
    uint64_t members = 0, slots = 0, filled = 0, ram_pages = 0, channels = 0;
    std::string store, seed, hash, id, name;
    gang::DirectoryConfig share;
    if (!gang::GetUint(request, "members", gang::kMaxMembers, &members) || members == 0) {
        return Invalid("'members' must be 1 to " + std::to_string(gang::kMaxMembers));
    }
    if (!gang::GetString(request, "store", &store) || !gang::FromHex(store, &share.store_uuid) ||
        !gang::GetString(request, "seed", &seed) || !gang::FromHex(seed, &share.seed) ||
        !gang::GetUint(request, "slots", UINT32_MAX, &slots) ||
        (request.contains("filled") && !gang::GetUint(request, "filled", slots, &filled))) {
        return Invalid("'store', 'seed' and 'slots' must be those of the destination's greeting");
    }
    if (!gang::GetString(request, "hash", &hash) ||
        !gang::HashKindFromName(hash, &share.hash_kind)) {
        return {"incompatible", kUnknownHash};
    }
    if (!gang::GetUint(request, "channels", gang::kMaxChannels, &channels) || channels == 0) {
        return Invalid("'channels' must be 1 to " + std::to_string(gang::kMaxChannels));
    }
    // What is no number claims nothing, which is refused.
    (void)gang::GetUint(request, "ram-pages", UINT64_MAX, &ram_pages);
    if (Refusal refusal = CheckRam(*peer, pid, ram_pages)) {
        return refusal;
    }
    // Of such a store any slot may be referenced: its directory has room for all of
    // them, however little RAM the members have.
    const uint64_t most_filled =
        std::min(kMaxGangPages, limits_.max_total_pages) +
        uint64_t{gang::kMaxChannels} * gang::kChunkSlots;
    if (filled != 0 && slots > most_filled) {
        return {"limit", "the destination has kept a store of " + std::to_string(slots) +
                             " slots; this host's max-total-ram allows " +
                             std::to_string(most_filled) +
                             ": raise it, or drop that store (gangctl forget, there)"};
    }
    gang::GetString(request, "gang", &id);
    gang::GetString(request, "member", &name);
    auto existing = sources_.find(id);
    if (existing != sources_.end()) {
        // Nothing of another user's gang is told, not even its size.
        Refusal refusal = CheckOwner(*existing->second, *peer);
        if (!refusal) {
            refusal = CheckMembers(*existing->second, name, members);
        }
        if (refusal) {
            return refusal;
        }
    }
    if (Refusal refusal = ReadPolicy(existing != sources_.end() ? existing->second.get() : nullptr,
                                     request, policy)) {
        return refusal;
    }
    if (Refusal refusal = CheckStores(existing != sources_.end() ? existing->second.get() : nullptr,
                                      name, share.store_uuid)) {
        return refusal;
    }
    share.store_slots = slots;
    share.kept = filled != 0;
    share.gang_pages = ram_pages;
    *members_out = members;
    *share_out = share;
    return {};
}

Refusal Coordinator::JoinSource(Peer *peer, uint64_t pid, const json &request, uint64_t now_ms) {
    uint64_t members = 0;
    gang::DirectoryConfig share;
    gang::SwitchoverPolicy policy;
    if (Refusal refusal = CheckSource(peer, pid, request, &members, &share, &policy)) {
        return refusal;
    }
    Gang *gang;
    Member *member;
    if (Refusal refusal = Admit(&sources_, peer, pid, request, &gang, &member)) {
        return refusal;
    }
    member->share = share;
    member->wants_board = request.value("board", json()) == true;
    if (gang->expected == 0) {
        gang->expected = members;
        gang->policy = policy;
        TakeAnnounced(gang, now_ms);
        gang->deadline_ms = now_ms + limits_.barrier_ms;
    }
    spdlog::info("gang {}: {} (pid {}) joins as source, {} of {}", gang->id, member->name,
                 member->pid, gang->members.size(), gang->expected);
    if (gang->complete) {
        Grant(gang, member);
    } else if (gang->members.size() >= gang->expected) {
        // Those who came and died are not waited for.
        Complete(gang, now_ms);
    }
    return {};
}

// The first barrier falls: everybody who is there gets its directory.
void Coordinator::Complete(Gang *gang, uint64_t now_ms) {
    gang->complete = true;
    gang->deadline_ms = now_ms + limits_.barrier_ms;
    gang->joined = static_cast<uint32_t>(Alive(*gang));
    gang->missing =
        static_cast<uint32_t>(gang->expected > gang->joined ? gang->expected - gang->joined : 0);
    if (gang->missing) {
        const std::string names = MissingText(*gang);
        spdlog::warn("gang {}: goes on with {} of {} members{}{}", gang->id, gang->joined,
                     gang->expected, names.empty() ? "" : "; missing: ", names);
    }
    if (RefuseIncomplete(gang)) {
        return;
    }
    for (const auto &m : gang->members) {
        if (m->peer) {
            Grant(gang, m.get());
        }
    }
    CheckStart(gang, false);
}

// A directory with room for all who go to the store of `member`, and for a
// share of those who are missing.
gang::Status Coordinator::MakeShare(const Gang &gang, const Member &member,
                                    std::unique_ptr<Share> *share) const {
    gang::DirectoryConfig config = member.share;
    config.mirror_pages = limits_.mirror_bytes / gang::kPageSize;
    uint64_t pages = 0, here = 0;
    for (const auto &m : gang.members) {
        if (m->peer && m->share.store_uuid == config.store_uuid) {
            pages += m->share.gang_pages;
            here++;
            config.store_slots = std::min(config.store_slots, m->share.store_slots);
        }
    }
    if (std::find(spent_.begin(), spent_.end(), config.store_uuid) != spent_.end()) {
        // Slots would be chosen that are filled already, and the member would fail.
        spdlog::warn("gang {}: its store at the destination was filled by members that have left: "
                     "{} shares nothing. Start a gang's members together, with their number",
                     gang.id, member.name);
        config.store_slots = config.mirror_pages = 0;
        config.kept = false;
    }
    config.gang_pages = std::min({pages + pages / here * gang.missing, kMaxGangPages,
                                  std::max(pages, limits_.max_total_pages)});
    auto made = std::make_unique<Share>();
    gang::Status status = gang::Directory::Create(config, &made->fd);
    if (status.ok()) {
        status = gang::Directory::Open(made->fd, &made->directory,
                                       gang::Directory::Access::kObserver);
    }
    if (status.ok()) {
        spdlog::info("gang {}: directory of {} bytes for {} pages", gang.id,
                     made->directory->size(), config.gang_pages);
        // The header is writable by every member from now on: not read again.
        made->seed = config.seed;
        made->slots = made->directory->header().slots;
        made->entries = made->directory->header().buckets * gang::kEntriesPerBucket;
        *share = std::move(made);
    }
    return status;
}

// A gang without a board moves without policy: an error here is no refusal.
void Coordinator::GrantBoard(Gang *gang, Member *member) {
    gang::Status status;
    if (!member->wants_board || (gang->rejoined && !gang->board)) {
        return; // those of a gang that another gangd began have theirs
    }
    if (!gang->board) {
        if (gang->board_fd < 0) {
            status = gang::Board::Create(&gang->board_fd);
        }
        if (status.ok()) {
            status = gang::Board::Open(gang->board_fd, &gang->board);
        }
        if (status.ok()) {
            SetUpPolicy(gang);
            gang->board->header().turn_ms = limits_.turn_ms;
            gang->board->header().bulk_limit = limits_.bulk_members;
            ApplyOrder(gang);
        }
    }
    if (status.ok()) {
        status = gang->board->AddMember(static_cast<uint32_t>(member->pid), &member->board_index);
    }
    if (!status.ok()) {
        spdlog::warn("gang {}: no board for {}: {}", gang->id, member->name, status.message());
        return;
    }
    member->has_board = true;
    member->peer->Send({{"op", "board"}, {"index", member->board_index}}, gang->board_fd);
}

void Coordinator::Grant(Gang *gang, Member *member) {
    std::unique_ptr<Share> &share = gang->shares[member->share.store_uuid];
    gang::Status status;
    if (!share) {
        status = MakeShare(*gang, *member, &share);
    }
    if (status.ok() && (share->seed != member->share.seed ||
                        share->directory->hash_kind() != member->share.hash_kind)) {
        status = {gang::Code::kInvalid,
                  "two destinations name one store with different seeds or hashes"};
    }
    if (status.ok()) {
        status = share->directory->AddMember(static_cast<uint32_t>(member->pid), &member->index);
    }
    if (!status.ok()) {
        spdlog::error("gang {}: no directory for {}: {}", gang->id, member->name, status.message());
        member->peer->Send({{"error", status.message()}, {"code", WireCode(status)}}, -1);
        member->peer->Drop();
        return;
    }
    member->granted = share.get();
    GrantBoard(gang, member);
    member->peer->Send({{"op", "directory"},
                        {"index", member->index},
                        {"joined", gang->joined},
                        {"missing", gang->missing},
                        {"absent", gang->missing ? MissingText(*gang) : ""},
                        {"entries", share->entries}},
                       share->fd);
}

Refusal Coordinator::Scanned(Peer *peer) {
    for (auto &[id, gang] : sources_) {
        for (auto &m : gang->members) {
            if (m->peer == peer && m->granted) {
                m->scanned = true;
                CheckStart(gang.get(), false);
                return {};
            }
        }
    }
    return {"protocol", "'scanned' comes after the directory"};
}

// The second barrier: nobody sends before all have counted what they have.
void Coordinator::CheckStart(Gang *gang, bool timeout) {
    if (!gang->complete) {
        return;
    }
    if (!gang->started) {
        size_t waiting = 0, slow = 0;
        for (const auto &m : gang->members) {
            if (m->peer && m->granted) {
                (m->scanned ? waiting : slow)++;
            }
        }
        if (slow && !timeout) {
            return;
        }
        if (!waiting && !timeout) {
            return;
        }
        if (slow) {
            spdlog::warn("gang {}: starts while {} members still scan", gang->id, slow);
        }
        gang->started = true;
        spdlog::info("gang {}: start of {} members", gang->id, waiting);
    }
    for (auto &m : gang->members) {
        if (m->peer && m->scanned && !m->started) {
            m->started = true;
            m->peer->Send({{"op", "start"}}, -1);
        }
    }
}

void Coordinator::Tick(uint64_t now_ms) {
    TickKept(now_ms);
    for (auto &[id, gang] : sources_) {
        if (now_ms < gang->deadline_ms) {
            continue;
        }
        if (!gang->complete) {
            Complete(gang.get(), now_ms);
        } else if (!gang->started) {
            CheckStart(gang.get(), true);
        }
    }
}

bool Coordinator::needs_tick() const {
    return !kept_.empty() || std::any_of(sources_.begin(), sources_.end(),
                                         [](const auto &g) { return !g.second->started; });
}

// A full store only means fewer references (invariant 8), so that a gang gets
// what is left rather than a refusal.
gang::Status Coordinator::MakeStore(Gang *gang, gang::HashKind hash_kind) {
    uint64_t total = limits_.store_total / kSlotBytes;
    uint64_t wanted = limits_.store_bytes / kSlotBytes;
    uint64_t slots = MakeRoom(gang->owner, wanted, total);
    slots = std::min<uint64_t>(slots, UINT32_MAX - gang::kChunkSlots);
    slots = std::max<uint64_t>(slots / gang::kChunkSlots, 1) * gang::kChunkSlots;
    // A quarter is for what members save when they fail, if it is one chunk or more.
    const bool saves = limits_.keep_ms != 0 && !limits_.keep_shared_only;
    gang::Status status =
        gang::Store::Create(slots, hash_kind, &gang->store_fd,
                            saves && slots >= 4 * gang::kChunkSlots ? slots - slots / 4 : slots);
    if (status.ok()) {
        status =
            gang::Store::Open(gang->store_fd, &gang->store, gang::Store::Access::kObserver);
    }
    if (status.ok()) {
        spdlog::log(slots < wanted / 2 ? spdlog::level::warn : spdlog::level::info,
                    "gang {}: store of at most {} bytes, hash {}", gang->id,
                    slots * gang::kPageSize, gang::HashKindName(hash_kind));
    }
    return status;
}

// The hash that a destination asks for; kInvalid: whatever its gang has.
Refusal Coordinator::ChooseHash(const Peer &peer, const json &request,
                                gang::HashKind *hash_kind) const {
    std::string id, name;
    if (!request.contains("hash")) {
        return {};
    }
    if (!gang::GetString(request, "hash", &name) || !gang::HashKindFromName(name, hash_kind)) {
        return {"incompatible", kUnknownHash};
    }
    if (*hash_kind < limits_.hash_kind) {
        return {"denied", "this host's gangd is configured with hash=" +
                              gang::HashKindText(limits_.hash_kind) + ", and " + name +
                              " is weaker: ask for no other gang-hash"};
    }
    gang::GetString(request, "gang", &id);
    auto it = destinations_.find(id);
    if (it == destinations_.end()) {
        return {};
    }
    // Whoever has nothing to do with the gang does not learn which hash it has.
    if (Refusal refusal = CheckOwner(*it->second, peer)) {
        return refusal;
    }
    if (it->second->store && it->second->store->hash_kind() != *hash_kind) {
        return Invalid("gang " + id + " has the hash " +
                       gang::HashKindText(it->second->store->hash_kind()) + ", not " + name +
                       ": give all its VMs the same gang-hash, or use another gang id");
    }
    return {};
}

Refusal Coordinator::JoinDestination(Peer *peer, uint64_t pid, const json &request) {
    Gang *gang;
    Member *member;
    gang::HashKind hash_kind = gang::HashKind::kInvalid;
    if (Refusal refusal = ChooseHash(*peer, request, &hash_kind)) {
        return refusal;
    }
    if (Refusal refusal = Admit(&destinations_, peer, pid, request, &gang, &member)) {
        return refusal;
    }
    if (!gang->store) {
        Resume(KeyOf(gang->id, member->name), gang, hash_kind);
    }
    if (!gang->store) {
        if (gang::Status status = MakeStore(
                gang, hash_kind != gang::HashKind::kInvalid ? hash_kind : limits_.hash_kind);
            !status.ok()) {
            spdlog::error("gang {}: no store: {}", gang->id, status.message());
            Remove(&destinations_, peer, "failed", true);
            return {"internal", "no store: " + status.message()};
        }
    }
    spdlog::info("gang {}: {} (pid {}) joins as destination", gang->id, member->name, member->pid);
    peer->Send({{"op", "store"},
                {"gang", gang->id},
                {"slots", gang->store->slots()},
                {"hash", gang::HashKindText(gang->store->hash_kind())}},
               gang->store_fd);
    return {};
}

// Nobody who lives is a member any more: what was shared is wiped, though some
// process may still have it.  (Not the board: it has no contents, and whoever was
// taken for gone and is not must find there what the gang has decided.  And when gangd
// itself ends nothing is: its members go on with what they have.)
void Coordinator::End(Gang *gang) {
    for (auto &[uuid, share] : gang->shares) {
        if (share && share->directory->slots_taken()) {
            spent_.push_back(uuid);
            if (spent_.size() > kMaxSpent) {
                spent_.pop_front();
            }
        }
        if (share && share->fd >= 0 && wipe_) {
            share->directory.reset();
            wipe_(std::exchange(share->fd, -1));
        }
    }
    if (gang->store_fd >= 0 && wipe_) {
        gang->store.reset();
        wipe_(std::exchange(gang->store_fd, -1));
    }
}

bool Coordinator::Remove(Gangs *gangs, Peer *peer, const char *state, bool said) {
    for (auto it = gangs->begin(); it != gangs->end(); ++it) {
        Gang *gang = it->second.get();
        for (auto &m : gang->members) {
            if (m->peer != peer) {
                continue;
            }
            m->peer = nullptr;
            m->state = state;
            if (m->granted) {
                m->granted->directory->SetMemberState(m->index, said ? gang::MemberState::kLeft
                                                                     : gang::MemberState::kDead);
            }
            if (m->has_board) {
                gang->board->SetState(m->board_index, said ? gang::MemberState::kLeft
                                                           : gang::MemberState::kDead);
            }
            spdlog::info("gang {}: {} leaves ({})", gang->id, m->name, state);
            MemberGone(gang, *m, said);
            if (Alive(*gang) == 0) {
                spdlog::info("gang {}: ends", gang->id);
                if (gangs != &destinations_ || !Keep(it->first, gang)) {
                    End(gang);
                }
                gangs->erase(it);
            } else {
                CheckStart(gang, false);
            }
            return true;
        }
    }
    return false;
}

Refusal Coordinator::Leave(Peer *peer, const json &request) {
    std::string result;
    gang::GetString(request, "result", &result);
    const char *state = result == "completed"   ? "completed"
                        : result == "cancelled" ? "cancelled"
                                                : "failed";
    if (!Remove(&sources_, peer, state, true) && !Remove(&destinations_, peer, state, true)) {
        return {"protocol", "'leave' without a join"};
    }
    return {};
}

void Coordinator::HungUp(Peer *peer) {
    if (!Remove(&sources_, peer, "dead", false)) {
        Remove(&destinations_, peer, "dead", false);
    }
}

} // namespace gangd
