// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The obligations.  They are written from layout.h and DESIGN.md, not from the
// code that is tested.

#include "world.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>

extern "C" ssize_t __real_pwrite(int fd, const void *bytes, size_t size, off_t offset);
extern "C" ssize_t __wrap_pwrite(int fd, const void *bytes, size_t size, off_t offset);
extern "C" ssize_t __wrap_pwritev(int fd, const iovec *iov, int count, off_t offset);

extern "C" ssize_t __wrap_pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    const iovec iov = {const_cast<void *>(bytes), size};
    return gang::interleave::World::current()->Write(false, fd, &iov, 1,
                                                     static_cast<uint64_t>(offset));
}

extern "C" ssize_t __wrap_pwritev(int fd, const iovec *iov, int count, off_t offset) {
    return gang::interleave::World::current()->Write(true, fd, iov, count,
                                                     static_cast<uint64_t>(offset));
}

namespace gang::interleave {

namespace {

World *the_world;

uint8_t *MapAll(int fd, uint64_t *size) {
    struct stat st;
    void *p = MAP_FAILED;
    if (fstat(fd, &st) == 0) {
        *size = static_cast<uint64_t>(st.st_size);
        p = mmap(nullptr, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (p == MAP_FAILED) {
        throw std::runtime_error("no mapping");
    }
    return static_cast<uint8_t *>(p);
}

// Where the store has mapped itself: it does not say.
uintptr_t StoreMapping() {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        if (line.find("/memfd:gang-store") != std::string::npos) {
            return strtoull(line.c_str(), nullptr, 16);
        }
    }
    throw std::runtime_error("no mapping of the store");
}

uint32_t SlotOf(uint64_t word) {
    return static_cast<uint32_t>(word >> 32) - 1;
}
std::string Text(uint64_t n) {
    return std::to_string(n);
}

} // namespace

World *World::current() {
    return the_world;
}

World::World(const Config &config)
    : config_(config), gang_(config.slots, 1024, config.mirror_pages), execution_(this),
      pages_(config.contents.size()), store_mapping_(StoreMapping()) {
    the_world = this;
    directory_bytes_ = MapAll(gang_.directory_fd.get(), &directory_size_);
    store_bytes_ = MapAll(gang_.store_fd.get(), &store_size_);
    store_data_ = store_size_ - config.slots * kPageSize;
    for (size_t i = 0; i < config.contents.size(); i++) {
        test::FillPage(pages_.page(i), i + 1);
    }
}

World::~World() {
    munmap(directory_bytes_, directory_size_);
    munmap(store_bytes_, store_size_);
    the_world = nullptr;
}

void World::Reset() {
    execution_.Reset();
    claimed_.clear();
    written_.clear();
    touched_.clear();
    memset(applied_, 0, sizeof(applied_));
    counts_begun_ = counts_done_ = decisions_ = 0;
    for (uint32_t m = 0; m < config_.members; m++) {
        gang_.AddMember();
    }
    for (const Content &content : config_.contents) {
        for (uint32_t i = 0; i < content.seen; i++) {
            Counting();
            if (!directory().Count(content.hash) && config_.mirror_pages) {
                directory().CountFeatures(content.features);
            }
            Counted();
        }
    }
}

// ------------------------------------------------------------------ places

MemberRecord &World::member(uint64_t index) const {
    const DirectoryHeader &h = gang_.directory->header();
    auto *base = reinterpret_cast<uint8_t *>(const_cast<DirectoryHeader *>(&h));
    return reinterpret_cast<MemberRecord *>(base + h.members_off)[index];
}

Entry &World::entry(uint64_t index) const {
    const DirectoryHeader &h = gang_.directory->header();
    auto *base = reinterpret_cast<uint8_t *>(const_cast<DirectoryHeader *>(&h));
    return reinterpret_cast<Entry *>(base + h.buckets_off)[index];
}

World::Place World::Locate(const void *word) const {
    const DirectoryHeader &h = gang_.directory->header();
    const auto at = reinterpret_cast<uintptr_t>(word);
    const auto within = [&](uintptr_t base, uint64_t off, uint64_t size, uint64_t *o) {
        *o = at - base - off;
        return at >= base + off && *o < size;
    };
    const auto d = reinterpret_cast<uintptr_t>(&h);
    uint64_t o;
    if (within(d, h.members_off, uint64_t{kMaxMembers} * sizeof(MemberRecord), &o)) {
        const uint64_t m = o / sizeof(MemberRecord), f = o % sizeof(MemberRecord);
        return f == 0                             ? Place{Field::kState, m, 0}
               : f == offsetof(MemberRecord, pid) ? Place{Field::kPid, m, 0}
               : f < offsetof(MemberRecord, stats)
                   ? Place{Field::kAcked, m, (f - offsetof(MemberRecord, acked)) / 4}
                   : Place{Field::kStat, m, (f - offsetof(MemberRecord, stats)) / 8};
    }
    if (within(d, h.chunks_off, h.chunks * 4, &o)) {
        return {Field::kChunkOwner, o / 4, 0};
    }
    if (within(d, h.buckets_off, h.buckets * sizeof(Bucket), &o)) {
        const uint64_t f = o % sizeof(Entry);
        return {f == 0                          ? Field::kLo
                : f == offsetof(Entry, hash_hi) ? Field::kHi
                : f < offsetof(Entry, seen)     ? Field::kClaim
                : f == offsetof(Entry, seen)    ? Field::kSeen
                                                : Field::kLiteral,
                o / sizeof(Entry), 0};
    }
    if (within(d, h.features_off, h.feature_sets * kFeatureWays * 8, &o)) {
        return {Field::kFeature, o / 8, 0};
    }
    if (within(d, h.mirrored_off, h.slots * 4, &o)) {
        return {Field::kMirrored, o / 4, 0};
    }
    if (word == &h.next_chunk || word == &h.entries_used || word == &h.mirror_used) {
        return {word == &h.next_chunk     ? Field::kNextChunk
                : word == &h.entries_used ? Field::kEntriesUsed
                                          : Field::kMirrorUsed,
                0, 0};
    }
    if (h.mirror_off && within(reinterpret_cast<uintptr_t>(directory_bytes_), h.mirror_off,
                               h.slots * kPageSize, &o)) {
        return {Field::kMirror, o / kPageSize, o % kPageSize};
    }
    if (within(reinterpret_cast<uintptr_t>(store_bytes_), store_data_, config_.slots * kPageSize,
               &o)) {
        return {Field::kSlotData, o / kPageSize, o % kPageSize};
    }
    // The store's own mapping: its words by their addresses.
    const uintptr_t s = store_mapping_;
    if (within(s, kPageSize, config_.slots * sizeof(SlotMeta), &o)) {
        return {o % sizeof(SlotMeta) ? Field::kSlotHash : Field::kSlotState, o / sizeof(SlotMeta),
                o % sizeof(SlotMeta)};
    }
    return {within(s, 0, kPageSize, &o) ? Field::kSlotsUsed : Field::kOther, 0, 0};
}

bool World::Visible(const void *word) const {
    switch (Locate(word).field) {
    case Field::kStat:
    case Field::kPid:
    case Field::kEntriesUsed:
        return config_.stat_steps;
    case Field::kSlotState:
    case Field::kSlotHash:
    case Field::kSlotsUsed:
    case Field::kSlotData:
        return config_.store_steps;
    default:
        return true;
    }
}

std::string World::Name(const void *word) const {
    static const char *const kNames[] = {
        "another word",         "state of member",       "pid of member",        "acked of member",
        "counter of member",    "owner of chunk",        "hash_lo of entry",     "hash_hi of entry",
        "claim of entry",       "seen of entry",         "literal of entry",     "feature",
        "mirrored of slot",     "mirror of slot",        "next_chunk",           "entries_used",
        "mirror_used",          "state of store's slot", "hash of store's slot", "slots_used",
        "bytes of store's slot"};
    const Place place = Locate(word);
    return std::string(kNames[static_cast<size_t>(place.field)]) + " " + Text(place.index) + "." +
           Text(place.part);
}

int World::ContentOf(uint64_t lo, uint64_t hi) const {
    for (size_t i = 0; i < config_.contents.size(); i++) {
        if (config_.contents[i].hash == Hash{lo, hi}) {
            return static_cast<int>(i);
        }
    }
    return -1;
}

bool World::Alive(uint32_t m) const {
    return static_cast<MemberState>(member(m).state.load()) == MemberState::kAlive;
}

// ------------------------------------------------------ after every access

void World::ClaimChanged(uint64_t index, uint64_t before, uint64_t now) {
    const std::string what = "entry " + Text(index) + ": ";
    uint32_t m, c;
    if (before) {
        if (!directory().Owner(before, &m, &c)) {
            return Fail(what + "a claim without an owner");
        }
        if (Alive(m)) {
            return Fail(what + "the claim of a living member was replaced");
        }
        if (directory().Confirmed(before) && !(config_.late_acks && config_.claims_may_move)) {
            return Fail(what + "a confirmed claim changed");
        }
    }
    const auto packet = static_cast<uint32_t>(now);
    const uint32_t claimer = execution_.process();
    if (!directory().Owner(now, &m, &c) || (m != claimer && claimer != Execution::kNoProcess)) {
        return Fail(what + "claimed for a slot that is not the claimer's");
    }
    if (packet == 0 || member(m).acked[c].load() >= packet) {
        return Fail(what + "confirmed before it is acknowledged");
    }
    const int content = ContentOf(entry(index).hash_lo.load(), entry(index).hash_hi.load());
    if (content < 0) {
        return Fail(what + "claimed without a whole hash");
    }
    if (!claimed_.emplace(SlotOf(now), content).second) {
        return Fail(what + "slot " + Text(SlotOf(now)) + " was claimed before");
    }
}

void World::Changed(const void *word, uint64_t before, uint64_t now) {
    const Place p = Locate(word);
    const std::string what = Name(word) + ": ";
    switch (p.field) {
    case Field::kState:
        if (before != 0 && now < static_cast<uint64_t>(MemberState::kLeft)) {
            Fail(what + "a member came back");
        }
        break;
    case Field::kAcked:
        if (now < before || now > applied_[p.index][p.part]) {
            Fail(what + "acknowledged what the destination has not applied");
        } else if (!Alive(static_cast<uint32_t>(p.index)) && !config_.late_acks) {
            Fail(what + "acknowledged after its end");
        }
        break;
    case Field::kStat:
    case Field::kSeen:
    case Field::kNextChunk:
    case Field::kEntriesUsed:
    case Field::kMirrorUsed:
    case Field::kSlotsUsed:
        if (now < before) {
            Fail(what + "a counter went back");
        }
        break;
    case Field::kLiteral:
        if (now > decisions_ + 1) {
            Fail(what + "more literals than decisions");
        }
        break;
    case Field::kChunkOwner:
        if (before) {
            Fail(what + "handed out twice");
        }
        break;
    case Field::kLo:
        touched_.insert(p.index);
        if (before) {
            Fail(what + "changed");
        }
        break;
    case Field::kHi:
        if (before || entry(p.index).hash_lo.load() == 0) {
            Fail(what + (before ? "changed" : "written first"));
        } else if (ContentOf(entry(p.index).hash_lo.load(), now) < 0) {
            Fail(what + "a hash that nobody has");
        }
        break;
    case Field::kClaim:
        ClaimChanged(p.index, before, now);
        break;
    case Field::kFeature:
        if (before && (static_cast<uint32_t>(before) >> 8) != (static_cast<uint32_t>(now) >> 8)) {
            Fail(what + "another feature's");
        } else if ((now & 0xff) < (before & 0xff)) {
            Fail(what + "counted back");
        } else if (before >> 32 && SlotOf(now) != SlotOf(before) && !config_.late_acks &&
                   directory().slot_state(SlotOf(before)) != SlotState::kUnknown) {
            Fail(what + "a page that is or will be in the store was replaced");
        } else if (now >> 32 && claimed_.count(SlotOf(now)) == 0) {
            Fail(what + "stands for a slot that nobody has claimed");
        }
        break;
    case Field::kMirrored: {
        const auto slot = static_cast<uint32_t>(p.index);
        if (before || claimed_.count(slot) == 0) {
            Fail(what + "mirrored twice, or without a claim");
        } else {
            CheckPage(directory().mirror(slot), static_cast<size_t>(claimed_[slot]), what);
        }
        break;
    }
    case Field::kSlotState:
        if (before != kSlotEmpty) {
            Fail(what + "filled twice");
        } else {
            const auto slot = static_cast<uint32_t>(p.index);
            if (claimed_.count(slot) == 0) {
                Fail(what + "filled without a claim");
            } else {
                CheckPage(store_bytes_ + store_data_ + p.index * kPageSize,
                          static_cast<size_t>(claimed_[slot]), what);
            }
        }
        break;
    default:
        break;
    }
}

ssize_t World::Write(bool in_store, int fd, const iovec *iov, int count, uint64_t offset) {
    static uint8_t bytes[Store::kMaxPut * kPageSize]; // of one step
    size_t size = 0;
    for (int i = 0; i < count; i++) {
        size += iov[i].iov_len;
    }
    uint8_t *at = (in_store ? store_bytes_ : directory_bytes_) + offset;
    if (in_store) {
        for (size_t done = 0; done < size; done += kPageSize) {
            const uint64_t slot = (offset - store_data_ + done) / kPageSize;
            if (!written_.emplace(static_cast<uint32_t>(slot), true).second) {
                Fail("slot " + Text(slot) + " is written twice");
            }
        }
    }
    execution_.WroteBytes(at, size);
    for (size_t half : {size_t{0}, size / 2}) {
        const size_t n = half ? size - half : size / 2;
        Before(Op::kWrite, at + half);
        for (size_t i = 0, to = 0; i < static_cast<size_t>(count); to += iov[i++].iov_len) {
            memcpy(bytes + to, iov[i].iov_base, iov[i].iov_len);
        }
        if (__real_pwrite(fd, bytes + half, n, static_cast<off_t>(offset + half)) !=
            static_cast<ssize_t>(n)) {
            return -1;
        }
        uint64_t first;
        memcpy(&first, bytes + half, sizeof(first));
        After(Op::kWrite, at + half, 0, 0, first | 1, 0);
    }
    return static_cast<ssize_t>(size);
}

// ------------------------------------------------- by the actors' decisions

void World::CheckPage(const uint8_t *page, size_t content, const std::string &what) {
    if (memcmp(page, this->page(content), kPageSize) != 0) {
        Fail(what + " is not the content it should be (" + Text(content) + ")");
    }
}

void World::CheckReference(uint32_t slot, size_t content) {
    execution_.Quietly([&] {
        const std::string what = "a reference to slot " + Text(slot);
        uint32_t m, c;
        if (!directory().OwnerOfSlot(slot, &m, &c) || claimed_.count(slot) == 0) {
            return Fail(what + ", which nobody has claimed");
        }
        uint8_t page[kPageSize];
        Hash hash;
        const Status status = store().Get(slot, page, &hash);
        if (!status.ok()) {
            return Fail(what + ": " + status.message());
        }
        CheckPage(page, content, what);
    });
    if (!execution_.failure().empty()) {
        Fail(execution_.failure());
    }
}

void World::CheckBase(uint32_t slot) {
    CheckReference(slot, static_cast<size_t>(claimed_.count(slot) ? claimed_[slot] : 0));
    execution_.Quietly([&] {
        CheckPage(directory().mirror(slot), static_cast<size_t>(claimed_[slot]), "a base's mirror");
    });
    if (!execution_.failure().empty()) {
        Fail(execution_.failure());
    }
}

// ------------------------------------------------------------- in the end

void World::CheckEntries(bool whole) {
    uint64_t used = 0, seen = 0, half = 0;
    std::map<int, uint64_t> at;
    for (uint64_t i : touched_) {
        const uint64_t lo = entry(i).hash_lo.load(), hi = entry(i).hash_hi.load();
        used += lo != 0;
        seen += entry(i).seen.load();
        half += lo && !hi;
        if (lo && hi && !at.emplace(ContentOf(lo, hi), i).second) {
            return Fail("two entries for one hash");
        }
    }
    if (whole && half) {
        return Fail("a half-written hash that nobody completes");
    }
    const uint64_t counted = directory().header().entries_used.load();
    const uint64_t crashes = execution_.crashes() * config_.channels;
    if (counted > used || counted + crashes < used) {
        return Fail("entries_used is " + Text(counted) + " of " + Text(used));
    }
    if (seen < counts_done_ || seen > counts_begun_) {
        return Fail("occurrences: " + Text(seen) + " of " + Text(counts_done_));
    }
}

// Another member joins, with every content of the case.
void World::CheckNewcomer() {
    Directory &d = directory();
    uint32_t me, slot = 0;
    if (!d.AddMember(1, &me).ok() || me != config_.members) {
        return Fail("nobody can join any more");
    }
    bool room = d.TakeChunk(me, 0, &slot);
    for (size_t i = 0; i < config_.contents.size(); i++) {
        const Content &content = config_.contents[i];
        decisions_ += 2;
        Decision decision = d.Decide(content.hash, me);
        if (decision.verdict == Verdict::kLiteral) {
            decision = d.Decide(content.hash, me); // the second one is published
        }
        if (!decision.entry || decision.verdict == Verdict::kDefer ||
            decision.verdict == Verdict::kLiteral) {
            return Fail("content " + Text(i) + " can be decided by nobody any more");
        }
        if (decision.verdict == Verdict::kPublish && room) {
            Hash hash;
            const uint32_t packet = d.acked(me, 0) + 1;
            decisions_++;
            if (!d.Claim(decision.entry, decision.claim, slot, packet) ||
                !store().Put(slot, page(i), &hash).ok()) {
                return Fail("content " + Text(i) + " cannot be published any more");
            }
            Applied(me, 0);
            d.SetAcked(me, 0, packet);
            slot++;
            decision = d.Decide(content.hash, me);
            if (decision.verdict != Verdict::kReference || decision.slot != slot - 1) {
                return Fail("content " + Text(i) + " was published in vain");
            }
        }
        if (decision.verdict == Verdict::kReference) {
            CheckReference(decision.slot, i);
        }
    }
}

void World::CheckEnd() {
    CheckEntries(execution_.crashes() == 0);
    for (uint32_t m = 0; m < config_.members; m++) {
        if (Alive(m)) {
            directory().SetMemberState(m, MemberState::kDead);
        }
    }
    CheckNewcomer();
    CheckEntries(true);
}

} // namespace gang::interleave
