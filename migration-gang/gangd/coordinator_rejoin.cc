// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Members of gangs that another gangd has coordinated hand back what it gave them:
// after a restart a gang is known again.  Everything that comes is a stranger's: a
// segment is taken only if it is one that this gangd could have made, for a gang
// that it would admit, and what it holds is trusted no more than any segment's.

#include "coordinator.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include <spdlog/spdlog.h>

#include "control_message.h"

namespace gangd {

using nlohmann::json;

namespace {

constexpr uint64_t kMaxGangPages = uint64_t{1} << 36; // what a directory can have
constexpr uint64_t kSlotBytes = gang::kPageSize + sizeof(gang::SlotMeta);
constexpr int kSealExec = 0x20; // F_SEAL_EXEC, where the kernel has it: of no concern here

Refusal Invalid(const std::string &text) {
    return {"invalid", text};
}

Refusal Unusable(const gang::Status &status) {
    return Invalid("what is handed back cannot be used: " + status.message());
}

// Memory that nobody can resize or make read-only under us.  The seals come first: a
// file of the peer's own file system may answer other questions late, or never.
Refusal CheckFile(int fd) {
    if (fd < 0) {
        return Invalid("a member hands its segment back when it joins again");
    }
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & ~kSealExec) != (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        return Invalid("what is handed back is no segment: it has other seals");
    }
    // Huge pages that run out are a SIGBUS.
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0 || fs.f_type != TMPFS_MAGIC) {
        return Invalid("what is handed back is no segment: it is another kind of memory");
    }
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) {
        return Invalid("what is handed back could not be wiped: it is not open for writing");
    }
    return {};
}

bool SameFile(int a, int b) {
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

} // namespace

// A segment is one gang's: it is wiped when that one ends.  So no other gets one that is
// kept for its next attempt, nor one that is being wiped.
bool Coordinator::InUse(int fd) const {
    if (std::any_of(kept_.begin(), kept_.end(),
                    [&](const auto &kept) { return SameFile(kept.second.fd, fd); }) ||
        (is_wiped_ && is_wiped_(fd))) {
        return true;
    }
    for (const Gangs *role : {&sources_, &destinations_}) {
        for (const auto &[id, gang] : *role) {
            for (int own : {gang->store_fd, gang->board_fd}) {
                if (own >= 0 && SameFile(own, fd)) {
                    return true;
                }
            }
            for (const auto &[uuid, share] : gang->shares) {
                if (share && share->fd >= 0 && SameFile(share->fd, fd)) {
                    return true;
                }
            }
        }
    }
    return false;
}

Refusal Coordinator::TakeBackShare(const gang::DirectoryConfig &claim, int fd,
                                   std::unique_ptr<Share> *out) const {
    auto share = std::make_unique<Share>();
    if (gang::Status status =
            gang::Directory::Open(fd, &share->directory, gang::Directory::Access::kObserver);
        !status.ok()) {
        return Unusable(status);
    }
    const gang::Directory &d = *share->directory;
    // Copies: the header is writable by every member.
    const gang::Uuid uuid = d.header().store_uuid;
    const gang::Seed seed = d.header().seed;
    if (uuid != claim.store_uuid || seed != claim.seed || d.hash_kind() != claim.hash_kind) {
        return Invalid("the directory that is handed back is that of another store");
    }
    gang::DirectoryConfig largest;
    largest.gang_pages = std::min(kMaxGangPages, limits_.max_total_pages);
    largest.store_slots = claim.store_slots;
    largest.kept = claim.kept;
    const uint64_t slots =
        claim.kept ? claim.store_slots
                   : largest.gang_pages + uint64_t{gang::kMaxChannels} * gang::kChunkSlots;
    if (d.size() > gang::Directory::SizeFor(largest) ||
        d.slots() > std::min(slots, claim.store_slots)) {
        return {"limit", "the directory that is handed back is larger than max-total-ram and its "
                         "store allow"};
    }
    share->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (share->fd < 0) {
        return {"internal", "no descriptor for the directory"};
    }
    share->seed = seed;
    share->slots = d.slots();
    share->entries = gang::ReadOnce(d.header().buckets) * gang::kEntriesPerBucket; // for status
    *out = std::move(share);
    return {};
}

Refusal Coordinator::RejoinSource(Peer *peer, uint64_t pid, const json &request, int fd) {
    uint64_t members = 0, index = 0, joined = 0, missing = 0;
    gang::DirectoryConfig claim;
    gang::SwitchoverPolicy policy;
    if (Refusal refusal = CheckSource(peer, pid, request, &members, &claim, &policy)) {
        return refusal;
    }
    if (!gang::GetUint(request, "index", gang::kMaxMembers - 1, &index) ||
        !gang::GetUint(request, "joined", gang::kMaxMembers, &joined) ||
        !gang::GetUint(request, "missing", gang::kMaxMembers, &missing)) {
        return Invalid("'index', 'joined' and 'missing' must be those of the 'directory' message");
    }
    if (Refusal refusal = CheckFile(fd)) {
        return refusal;
    }
    std::string id;
    gang::GetString(request, "gang", &id);
    Share *share = nullptr;
    auto existing = sources_.find(id);
    if (existing != sources_.end()) {
        auto at = existing->second->shares.find(claim.store_uuid);
        share = at == existing->second->shares.end() ? nullptr : at->second.get();
    }
    std::unique_ptr<Share> taken;
    if (share && !SameFile(share->fd, fd)) {
        return {"exists", "gang " + id + " has another directory for this store already"};
    }
    if (!share) {
        if (InUse(fd)) {
            return Invalid("what is handed back is another gang's, or was one's");
        }
        if (Refusal refusal = TakeBackShare(claim, fd, &taken)) {
            return refusal;
        }
        share = taken.get();
    }
    // The record says so as long as nobody has given this member up.  (A member that writes
    // into others' records harms its gang in no new way.)
    const auto record = static_cast<uint32_t>(index);
    uint64_t process = pid;
    if (process == 0) {
        gang::GetUint(request, "pid", INT32_MAX, &process);
    }
    if (share->directory->member_state(record) != gang::MemberState::kAlive ||
        share->directory->member_pid(record) != process) {
        return Invalid("member number " + std::to_string(index) +
                       " of the directory is another one, or was given up");
    }
    if (existing != sources_.end() &&
        std::any_of(
            existing->second->members.begin(), existing->second->members.end(),
            [&](const auto &m) { return m->peer && m->granted == share && m->index == record; })) {
        return {"exists", "gang " + id + " has a member number " + std::to_string(index)};
    }
    Gang *gang;
    Member *member;
    if (Refusal refusal = Admit(&sources_, peer, pid, request, &gang, &member)) {
        return refusal;
    }
    if (taken) {
        gang->shares[claim.store_uuid] = std::move(taken);
    }
    member->share = claim;
    member->granted = share;
    member->index = record;
    member->scanned = member->started = true;
    spdlog::info("gang {}: {} (pid {}) is here again as source", gang->id, member->name,
                 member->pid);
    if (gang->expected == 0) {
        gang->expected = members;
        gang->policy = policy;
        gang->rejoined = true;
    }
    if (!gang->complete) {
        // Its barriers have fallen; who came here meanwhile is late, and gets what is there.
        gang->complete = gang->started = gang->rejoined = true;
        gang->joined = static_cast<uint32_t>(joined);
        gang->missing = static_cast<uint32_t>(missing);
        for (const auto &m : gang->members) {
            if (m->peer && !m->granted) {
                Grant(gang, m.get());
            }
        }
    }
    return {};
}

// After RejoinSource(), if the member has a board.  Nothing of it is needed for a right
// migration: a member that is refused goes on with it, unknown to this gangd.
Refusal Coordinator::RejoinBoard(Peer *peer, const json &request, int fd) {
    uint64_t index = 0;
    if (!gang::GetUint(request, "index", gang::kMaxMembers - 1, &index)) {
        return Invalid("'index' must be that of the 'board' message");
    }
    if (Refusal refusal = CheckFile(fd)) {
        return refusal;
    }
    for (auto &[id, gang] : sources_) {
        auto m = std::find_if(gang->members.begin(), gang->members.end(),
                              [&](const auto &one) { return one->peer == peer; });
        if (m == gang->members.end() || !(*m)->granted || (*m)->has_board) {
            continue;
        }
        std::unique_ptr<gang::Board> taken;
        if (gang->board && !SameFile(gang->board_fd, fd)) {
            return {"exists", "gang " + id + " has another board already"};
        }
        if (!gang->board) {
            if (InUse(fd)) {
                return Invalid("what is handed back is another gang's, or was one's");
            }
            if (gang::Status status = gang::Board::Open(fd, &taken); !status.ok()) {
                return Unusable(status);
            }
        }
        const gang::Board &board = taken ? *taken : *gang->board;
        const auto record = static_cast<uint32_t>(index);
        if (board.state(record) != gang::MemberState::kAlive ||
            board.record(record).pid.load(std::memory_order_relaxed) != (*m)->pid ||
            std::any_of(gang->members.begin(), gang->members.end(), [&](const auto &other) {
                return other->peer && other->has_board && other->board_index == record;
            })) {
            return Invalid("member number " + std::to_string(index) +
                           " of the board is another one, or was given up");
        }
        if (taken) {
            const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
            if (own < 0) {
                return {"internal", "no descriptor for the board"};
            }
            gang->board_fd = own;
            gang->board = std::move(taken);
        }
        (*m)->wants_board = (*m)->has_board = true;
        (*m)->board_index = record;
        ApplyOrder(gang.get()); // what an operator has said meanwhile
        return {};
    }
    return {"protocol", "'rejoin-board' comes after 'rejoin-source', and once"};
}

// As many slots as MakeStore() might have given.
Refusal Coordinator::TakeBackStore(uid_t user, const gang::Uuid &uuid, int fd,
                                   std::unique_ptr<gang::Store> *out) {
    gang::Status status = gang::Store::Open(fd, out, gang::Store::Access::kObserver);
    if (!status.ok()) {
        return Unusable(status);
    }
    const gang::Store &store = **out;
    if (store.uuid() != uuid) {
        return Invalid("what is handed back is another store");
    }
    if (store.hash_kind() < limits_.hash_kind) {
        return {"denied", "this host's gangd is configured with hash=" +
                              gang::HashKindText(limits_.hash_kind)};
    }
    // What is kept makes way for it, if that helps.
    const uint64_t total = limits_.store_total / kSlotBytes;
    const uint64_t size = limits_.store_bytes / kSlotBytes;
    const uint64_t room = MakeRoom(user, store.slots() <= size ? store.slots() : 0, total);
    const uint64_t most = std::max<uint64_t>(room, gang::kChunkSlots);
    if (store.slots() > most) {
        return {"limit", "the store that is handed back is larger than store-size or what is "
                         "left of store-total"};
    }
    return {};
}

Refusal Coordinator::RejoinDestination(Peer *peer, uint64_t pid, const json &request, int fd) {
    std::string id, name, store;
    gang::Uuid uuid;
    if (!gang::GetString(request, "store", &store) || !gang::FromHex(store, &uuid)) {
        return Invalid("'store' must be that of the store");
    }
    if (Refusal refusal = CheckFile(fd)) {
        return refusal;
    }
    gang::GetString(request, "gang", &id);
    gang::GetString(request, "member", &name);
    // A gang that began anew under this id has another store, and goes on beside it:
    // no id has a '/'.
    std::string key = limits_.intra_vm ? id + '/' + name : id;
    auto other = [&](const std::string &k) {
        auto it = destinations_.find(k);
        return it != destinations_.end() && !SameFile(it->second->store_fd, fd);
    };
    if (other(key)) {
        key += '/' + gang::ToHex(uuid);
    }
    if (other(key)) {
        return {"exists", "gang " + id + " has another store already"};
    }
    std::unique_ptr<gang::Store> taken;
    auto existing = destinations_.find(key);
    if (existing == destinations_.end()) {
        if (InUse(fd)) {
            return Invalid("what is handed back is another gang's, or was one's");
        }
        if (Refusal refusal = TakeBackStore(peer->uid(), uuid, fd, &taken)) {
            return refusal;
        }
    }
    int own = taken ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (taken && own < 0) {
        return {"internal", "no descriptor for the store"};
    }
    Gang *gang;
    Member *member;
    if (Refusal refusal = Admit(&destinations_, peer, pid, request, &gang, &member, key)) {
        if (own >= 0) {
            close(own);
        }
        return refusal;
    }
    if (taken) {
        gang->store = std::move(taken);
        gang->store_fd = own;
    }
    spdlog::info("gang {}: {} (pid {}) is here again as destination", gang->id, member->name,
                 member->pid);
    return {};
}

} // namespace gangd
