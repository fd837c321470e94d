// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The directory's operations.  See layout.h for what a word means and which
// transitions exist; every one of them is a single atomic operation here.

#include "directory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

namespace gang {

namespace {

// A third more entries than pages: linear probing over 64-byte buckets then
// still finds a place within kMaxProbes for nearly every content when no two
// pages are equal.  42.7 bytes a page, 1.04 % of RAM.
uint64_t BucketsFor(uint64_t pages) {
    uint64_t entries = std::max<uint64_t>(pages + pages / 3, 1024);
    return (entries + kEntriesPerBucket - 1) / kEntriesPerBucket;
}

// The gang never needs more slots than it has pages; chunks are whole.
// Of a kept store any slot may be referenced.
uint64_t ChunksFor(const DirectoryConfig &c) {
    uint64_t slots = std::min(
        c.store_slots, c.kept ? UINT32_MAX : c.gang_pages + uint64_t{kMaxChannels} * kChunkSlots);
    return std::min<uint64_t>(slots, UINT32_MAX - kChunkSlots) / kChunkSlots;
}

uint64_t AlignUp(uint64_t n, uint64_t a) { return (n + a - 1) / a * a; }

// One word a page: two features a content, and half of a gang's contents are
// not looked at because they are copies.  What finds no place is forgotten.
uint64_t FeatureSetsFor(uint64_t pages) {
    return std::max<uint64_t>(pages, 1024) / kFeatureWays;
}

struct Geometry {
    uint64_t buckets, chunks, feature_sets;
    uint64_t members_off, chunks_off, buckets_off, features_off, mirrored_off;
    uint64_t size; // of the directory proper
    uint64_t mirror_off, segment_size;
};

Geometry GeometryOf(uint64_t buckets, uint64_t chunks, uint64_t feature_sets, bool mirror) {
    Geometry g;
    g.buckets = buckets;
    g.chunks = chunks;
    g.feature_sets = feature_sets;
    g.members_off = AlignUp(sizeof(DirectoryHeader), 64);
    g.chunks_off = g.members_off + uint64_t{kMaxMembers} * sizeof(MemberRecord);
    g.buckets_off = AlignUp(g.chunks_off + chunks * sizeof(uint32_t), 64);
    g.features_off = g.buckets_off + buckets * sizeof(Bucket);
    g.mirrored_off = g.features_off + feature_sets * kFeatureWays * sizeof(FeatureWord);
    g.size = AlignUp(g.mirrored_off + chunks * kChunkSlots * sizeof(uint32_t), kPageSize);
    g.mirror_off = mirror ? g.size : 0;
    g.segment_size = g.size + (mirror ? chunks * kChunkSlots * kPageSize : 0);
    return g;
}

Geometry GeometryFor(const DirectoryConfig &c) {
    return GeometryOf(BucketsFor(c.gang_pages), ChunksFor(c), FeatureSetsFor(c.gang_pages),
                      c.mirror_pages != 0);
}

constexpr uint64_t kFeatureTag = 0xffffff00; // of a FeatureWord
constexpr uint64_t kFeatureCount = 0xff;

uint64_t TagOf(uint64_t feature) {
    uint64_t tag = (feature << 8) & kFeatureTag;
    return tag ? tag : uint64_t{1} << 8;
}
uint32_t SlotOf(FeatureWord word) { return static_cast<uint32_t>(word >> 32) - 1; }

constexpr uint64_t MakeClaim(uint32_t slot, uint32_t packet) {
    return (uint64_t{slot} + 1) << 32 | packet;
}
constexpr uint32_t ClaimSlot(uint64_t claim) { return static_cast<uint32_t>(claim >> 32) - 1; }
constexpr uint32_t ClaimPacket(uint64_t claim) { return static_cast<uint32_t>(claim); }

constexpr uint32_t kOwnerValid = 1u << 31;
constexpr uint32_t kChunkKept = 1u << 30;

uint32_t KeptOf(uint32_t owner) {
    return (owner & (kOwnerValid | kChunkKept)) == kChunkKept
               ? std::min(owner & ~kChunkKept, kChunkSlots)
               : 0;
}

} // namespace

uint64_t Directory::SizeFor(const DirectoryConfig &config) { return GeometryFor(config).size; }

Status Directory::Create(const DirectoryConfig &config, int *fd) {
    if (config.gang_pages == 0 || config.gang_pages > (uint64_t{1} << 36)) {
        return {Code::kInvalid, "a gang needs between one page and 256 TiB of RAM"};
    }
    if (!IsKnown(config.hash_kind)) {
        return {Code::kIncompatible, "unknown hash kind: this build knows xxh3-128 and sha256"};
    }
    Geometry g = GeometryFor(config);
    int f;
    Status status = CreateSealedMemfd("gang-directory", g.segment_size, &f);
    if (!status.ok()) {
        return status;
    }
    void *p = mmap(nullptr, sizeof(DirectoryHeader), PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    if (p == MAP_FAILED) {
        int err = errno;
        close(f);
        return Status::System("mapping a new directory", err);
    }
    auto *h = new (p) DirectoryHeader{};
    InitSegmentHeader(&h->segment, kDirectoryMagic, sizeof(*h), g.segment_size);
    h->store_uuid = config.store_uuid;
    h->seed = config.seed;
    h->hash_kind = static_cast<uint32_t>(config.hash_kind);
    h->page_size = kPageSize;
    h->max_members = kMaxMembers;
    h->max_channels = kMaxChannels;
    h->buckets = g.buckets;
    h->slots = g.chunks * kChunkSlots;
    h->chunks = g.chunks;
    h->members_off = g.members_off;
    h->chunks_off = g.chunks_off;
    h->buckets_off = g.buckets_off;
    h->features_off = g.features_off;
    h->feature_sets = g.feature_sets;
    h->mirrored_off = g.mirrored_off;
    h->mirror_off = g.mirror_off;
    h->mirror_pages = config.mirror_pages;
    h->next_chunk.store(config.kept ? kNoChunks : 0, std::memory_order_relaxed);
    munmap(p, sizeof(DirectoryHeader));
    *fd = f;
    return Status::Ok();
}

Status Directory::Open(int fd, std::unique_ptr<Directory> *out, Access access) {
    Segment segment;
    Status status = segment.Map(fd, kDirectoryMagic, sizeof(DirectoryHeader));
    if (!status.ok()) {
        return status;
    }
    auto *h = reinterpret_cast<DirectoryHeader *>(segment.data());
    // The geometry is copied before it is checked, and only the copy is used.
    const uint64_t size = segment.size();
    const uint64_t buckets = ReadOnce(h->buckets), chunks = ReadOnce(h->chunks);
    const uint64_t sets = ReadOnce(h->feature_sets), mirror_pages = ReadOnce(h->mirror_pages);
    const Geometry g = GeometryOf(std::min(buckets, size), std::min(chunks, size),
                                  std::min(sets, size), mirror_pages != 0);
    if (h->page_size != kPageSize || h->max_members != kMaxMembers ||
        h->max_channels != kMaxChannels || buckets == 0 || buckets != g.buckets ||
        chunks != g.chunks || chunks > UINT32_MAX / kChunkSlots ||
        h->slots != chunks * kChunkSlots || h->members_off != g.members_off ||
        h->chunks_off != g.chunks_off || h->buckets_off != g.buckets_off || sets == 0 ||
        sets != g.feature_sets || h->features_off != g.features_off ||
        h->mirrored_off != g.mirrored_off || h->mirror_off != g.mirror_off ||
        g.segment_size != size) {
        return {Code::kInvalid, "the directory's header makes no sense"};
    }
    const HashKind hash_kind = static_cast<HashKind>(ReadOnce(h->hash_kind));
    if (!IsKnown(hash_kind)) {
        return {Code::kIncompatible, "the directory uses a hash this build does not know"};
    }
    std::unique_ptr<Directory> d(new Directory());
    d->header_ = h;
    const bool mirrors = mirror_pages != 0 && access == Access::kMember;
    if (!mirrors) {
        segment.Trim(g.size);
    }
    // What nobody writes through the mapping cannot be written through it: the mirror.
    status = segment.AllowWrites(g.size);
    if (!status.ok()) {
        return status;
    }
    d->members_ = reinterpret_cast<MemberRecord *>(segment.data() + g.members_off);
    d->chunk_owner_ = reinterpret_cast<Atomic<uint32_t> *>(segment.data() + g.chunks_off);
    d->buckets_ = reinterpret_cast<Bucket *>(segment.data() + g.buckets_off);
    d->features_ =
        reinterpret_cast<Atomic<FeatureWord> *>(segment.data() + g.features_off);
    d->mirrored_ = reinterpret_cast<Atomic<uint32_t> *>(segment.data() + g.mirrored_off);
    d->mirror_ = mirrors ? segment.data() + g.mirror_off : nullptr;
    d->bucket_count_ = buckets;
    d->chunk_count_ = chunks;
    d->feature_sets_ = sets;
    d->mirror_off_ = g.mirror_off;
    d->mirror_pages_ = mirror_pages;
    d->size_ = g.size;
    d->hash_kind_ = hash_kind;
    d->hasher_ = Hasher(Seed(h->seed), hash_kind);
    d->segment_ = std::move(segment);
    d->fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (d->fd_ < 0) {
        return Status::System("no descriptor for the directory", errno);
    }
    *out = std::move(d);
    return Status::Ok();
}

Directory::~Directory() {
    if (fd_ >= 0) {
        close(fd_);
    }
}

Status Directory::AddMember(uint32_t pid, uint32_t *index) {
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        uint32_t expected = static_cast<uint32_t>(MemberState::kFree);
        if (members_[i].state.compare_exchange_strong(
                expected, static_cast<uint32_t>(MemberState::kAlive), std::memory_order_acq_rel)) {
            members_[i].pid.store(pid, std::memory_order_relaxed);
            *index = i;
            return Status::Ok();
        }
    }
    return {Code::kExhausted, "this gang has had " + std::to_string(kMaxMembers) +
                                  " joins; end it and start again under another gang id"};
}

void Directory::SetMemberState(uint32_t index, MemberState state) {
    if (index < kMaxMembers) {
        members_[index].state.store(static_cast<uint32_t>(state), std::memory_order_release);
    }
}

MemberState Directory::member_state(uint32_t index) const {
    if (index >= kMaxMembers) {
        return MemberState::kFree;
    }
    return static_cast<MemberState>(members_[index].state.load(std::memory_order_acquire));
}

uint32_t Directory::member_pid(uint32_t index) const {
    return index < kMaxMembers ? members_[index].pid.load(std::memory_order_relaxed) : 0;
}

uint64_t Directory::stat(uint32_t index, Stat stat) const {
    return members_[index].stats[static_cast<size_t>(stat)].load(std::memory_order_relaxed);
}

void Directory::AddStat(uint32_t index, Stat stat, uint64_t n) {
    members_[index].stats[static_cast<size_t>(stat)].fetch_add(n, std::memory_order_relaxed);
}

void Directory::SetStat(uint32_t index, Stat stat, uint64_t value) {
    members_[index].stats[static_cast<size_t>(stat)].store(value, std::memory_order_relaxed);
}

// A hash lives in the first entry, in probe order, that was free when it first
// came; entries are never freed, so there is at most one for each hash.
Entry *Directory::Find(const Hash &hash, bool insert, bool *existed) {
    uint64_t b =
        static_cast<uint64_t>((static_cast<unsigned __int128>(hash.hi) * bucket_count_) >> 64);
    *existed = false;
    for (uint32_t probe = 0; probe < kMaxProbes; probe++) {
        for (Entry &e : buckets_[b].entries) {
            uint64_t lo = e.hash_lo.load(std::memory_order_acquire);
            if (lo == 0) {
                if (!insert) {
                    return nullptr;
                }
                if (e.hash_lo.compare_exchange_strong(lo, hash.lo, std::memory_order_acq_rel)) {
                    header_->entries_used.fetch_add(1, std::memory_order_relaxed);
                    lo = hash.lo;
                }
            }
            if (lo != hash.lo) {
                continue;
            }
            uint64_t hi = e.hash_hi.load(std::memory_order_acquire);
            if (hi == 0 &&
                e.hash_hi.compare_exchange_strong(hi, hash.hi, std::memory_order_acq_rel)) {
                return &e;
            }
            if (hi == hash.hi) {
                *existed = true;
                return &e;
            }
        }
        b = b + 1 == bucket_count_ ? 0 : b + 1;
    }
    return nullptr;
}

bool Directory::Count(const Hash &hash) {
    bool existed;
    Entry *e = Find(hash, true, &existed);
    if (!e) {
        return false;
    }
    e->seen.fetch_add(1, std::memory_order_relaxed);
    return existed;
}

void Directory::Prefetch(const Hash &hash) const {
    uint64_t b =
        static_cast<uint64_t>((static_cast<unsigned __int128>(hash.hi) * bucket_count_) >> 64);
    __builtin_prefetch(&buckets_[b], 1);
}

bool Directory::Owner(uint64_t claim, uint32_t *member, uint32_t *channel) const {
    uint64_t chunk = uint64_t{ClaimSlot(claim)} / kChunkSlots;
    if (claim >> 32 == 0 || chunk >= chunk_count_) {
        return false;
    }
    uint32_t owner = chunk_owner_[chunk].load(std::memory_order_acquire);
    *member = owner >> 8 & 0x7fffff;
    *channel = owner & 0xff;
    return (owner & kOwnerValid) && *member < kMaxMembers && *channel < kMaxChannels;
}

bool Directory::OwnerOfSlot(uint32_t slot, uint32_t *member, uint32_t *channel) const {
    return Owner(MakeClaim(slot, 0), member, channel);
}

// The store held it before the directory was made.
bool Directory::IsKept(uint64_t claim) const {
    return claim != 0 && ClaimPacket(claim) == 0 && ClaimSlot(claim) < slots();
}

bool Directory::Confirmed(uint64_t claim) const {
    uint32_t member, channel;
    if (IsKept(claim)) {
        return true;
    }
    return Owner(claim, &member, &channel) &&
           members_[member].acked[channel].load(std::memory_order_acquire) >= ClaimPacket(claim);
}

Decision Directory::Decide(const Hash &hash, uint32_t member) {
    Decision d;
    bool existed;
    d.entry = Find(hash, true, &existed);
    if (!d.entry) {
        AddStat(member, Stat::kDirectoryFull, 1);
        return d;
    }
    d.claim = d.entry->claim.load(std::memory_order_acquire);
    if (d.claim != 0) {
        uint32_t owner, channel;
        d.slot = ClaimSlot(d.claim);
        if (IsKept(d.claim)) {
            d.verdict = Verdict::kReference;
            return d;
        }
        if (!Owner(d.claim, &owner, &channel)) {
            return d; // nonsense in shared memory: send in full
        }
        // The state is read first: an owner that was acknowledged and then
        // left must be seen as confirmed.
        bool alive = member_state(owner) == MemberState::kAlive;
        if (members_[owner].acked[channel].load(std::memory_order_acquire) >=
            ClaimPacket(d.claim)) {
            d.verdict = Verdict::kReference;
        } else {
            d.verdict = alive ? Verdict::kDefer : Verdict::kPublish;
        }
        return d;
    }
    if (d.entry->seen.load(std::memory_order_relaxed) >= 2 ||
        d.entry->literal.fetch_add(1, std::memory_order_relaxed) >= 1) {
        d.verdict = Verdict::kPublish;
    }
    return d;
}

void Directory::TakeBack(const Decision &decision) {
    if (decision.entry && decision.verdict == Verdict::kLiteral) {
        decision.entry->literal.fetch_sub(1, std::memory_order_relaxed);
    }
}

bool Directory::Claim(Entry *entry, uint64_t expected, uint32_t slot, uint32_t packet) {
    return entry->claim.compare_exchange_strong(expected, MakeClaim(slot, packet),
                                                std::memory_order_acq_rel);
}

bool Directory::TakeChunk(uint32_t member, uint32_t channel, uint32_t *first_slot) {
    // Each turn takes a chunk; who writes the number back does not keep this one here.
    // Acquire: what the inventory told of the chunks was there before they could be taken.
    for (uint64_t turns = 0; turns < chunk_count_ &&
                             header_->next_chunk.load(std::memory_order_acquire) < chunk_count_;
         turns++) {
        uint64_t chunk = header_->next_chunk.fetch_add(1, std::memory_order_relaxed);
        if (chunk >= chunk_count_) {
            return false;
        }
        // A filled slot's claim says itself that it is confirmed, whoever owns its chunk.
        const uint32_t kept = KeptOf(chunk_owner_[chunk].exchange(
            kOwnerValid | member << 8 | channel, std::memory_order_acq_rel));
        if (kept < kChunkSlots) {
            *first_slot = static_cast<uint32_t>(chunk * kChunkSlots) + kept;
            return true;
        }
    }
    return false;
}

bool Directory::AskInventory(uint32_t member) {
    if (inventory_complete()) {
        return false;
    }
    uint64_t asker = header_->inventory_asker.load(std::memory_order_acquire);
    if (asker != 0 && (asker - 1 == member ||
                       (asker <= kMaxMembers &&
                        member_state(static_cast<uint32_t>(asker - 1)) == MemberState::kAlive))) {
        return false;
    }
    return header_->inventory_asker.compare_exchange_strong(asker, uint64_t{member} + 1,
                                                            std::memory_order_acq_rel);
}

// Of each chunk the slots up to the last one told are taken; one that is owned
// already stays as it is, which happens when two tell.
void Directory::MarkKept(uint64_t chunk, uint32_t slots) {
    uint32_t word = chunk_owner_[chunk].load(std::memory_order_relaxed);
    while (!(word & kOwnerValid) && KeptOf(word) < slots) {
        if (chunk_owner_[chunk].compare_exchange_strong(word, kChunkKept | slots,
                                                        std::memory_order_acq_rel)) {
            break;
        }
    }
}

bool Directory::Keep(uint32_t slot, const Hash &hash) {
    if (slot >= slots() || hash.lo == 0 || hash.hi == 0) {
        return false;
    }
    MarkKept(slot / kChunkSlots, slot % kChunkSlots + 1);
    bool existed;
    if (Entry *e = Find(hash, true, &existed)) {
        uint64_t nobody = 0;
        e->claim.compare_exchange_strong(nobody, MakeClaim(slot, 0), std::memory_order_acq_rel);
    }
    return true;
}

void Directory::EndInventory(uint32_t member, uint32_t open) {
    if (inventory_complete() ||
        header_->inventory_asker.load(std::memory_order_acquire) != uint64_t{member} + 1) {
        return; // another one tells it
    }
    for (uint64_t chunk = open / kChunkSlots; chunk < chunk_count_; chunk++) {
        MarkKept(chunk, kChunkSlots);
    }
    uint64_t closed = kNoChunks;
    header_->next_chunk.compare_exchange_strong(closed, 0, std::memory_order_acq_rel);
}

// A feature's word is in its set, in the first place, in their order, that was
// free when it first came.  Two features with the same tag share a word.
Atomic<FeatureWord> *Directory::FindFeature(uint64_t feature) const {
    const uint64_t set =
        static_cast<uint64_t>((static_cast<unsigned __int128>(feature) * feature_sets_) >> 64);
    Atomic<FeatureWord> *words = features_ + set * kFeatureWays;
    for (uint32_t i = 0; i < kFeatureWays; i++) {
        FeatureWord word = words[i].load(std::memory_order_relaxed);
        if (word == 0) {
            return &words[i];
        }
        if ((word & kFeatureTag) == TagOf(feature)) {
            return &words[i];
        }
    }
    return nullptr;
}

void Directory::CountFeatures(const Features &features) {
    for (uint64_t feature : features) {
        // Another feature may take the free place meanwhile: look again, at
        // most once for each place.
        for (uint32_t tries = 0; tries <= kFeatureWays; tries++) {
            Atomic<FeatureWord> *at = FindFeature(feature);
            if (!at) {
                break;
            }
            FeatureWord word = at->load(std::memory_order_relaxed);
            if (word != 0 && (word & kFeatureTag) != TagOf(feature)) {
                continue;
            }
            if ((word & kFeatureCount) == kFeatureCount ||
                at->compare_exchange_strong(word, (word ? word : TagOf(feature)) + 1,
                                            std::memory_order_relaxed)) {
                break;
            }
        }
    }
}

void Directory::Representatives(const Features &features, std::array<uint32_t, kFeatures> *slots,
                                bool *shared) const {
    *shared = false;
    slots->fill(kNoSlot);
    for (size_t i = 0; mirror_ && i < features.size(); i++) {
        const Atomic<FeatureWord> *at = FindFeature(features[i]);
        const FeatureWord word = at ? at->load(std::memory_order_acquire) : 0;
        if ((word & kFeatureTag) != TagOf(features[i])) {
            continue;
        }
        if (word >> 32 && slot_state(SlotOf(word)) != SlotState::kUnknown) {
            (*slots)[i] = SlotOf(word);
        } else if ((word & kFeatureCount) >= 2) {
            *shared = true;
        }
    }
}

void Directory::Represent(const Features &features, uint32_t slot) {
    for (uint64_t feature : features) {
        Atomic<FeatureWord> *at = FindFeature(feature);
        FeatureWord word = at ? at->load(std::memory_order_acquire) : 0;
        if ((word & kFeatureTag) == TagOf(feature) && (word & kFeatureCount) >= 2 &&
            (word >> 32 == 0 || slot_state(SlotOf(word)) == SlotState::kUnknown)) {
            at->compare_exchange_strong(word, (word & UINT32_MAX) | (uint64_t{slot} + 1) << 32,
                                        std::memory_order_acq_rel);
        }
    }
}

SlotState Directory::slot_state(uint32_t slot) const {
    uint32_t member, channel;
    if (!mirror_ || !OwnerOfSlot(slot, &member, &channel)) {
        return SlotState::kUnknown;
    }
    const uint32_t packet = mirrored_[slot].load(std::memory_order_acquire);
    // As in Decide(): the state is read before the acknowledgement.
    const bool alive = member_state(member) == MemberState::kAlive;
    if (packet == 0) {
        return SlotState::kUnknown;
    }
    if (members_[member].acked[channel].load(std::memory_order_acquire) >= packet) {
        return SlotState::kConfirmed;
    }
    return alive ? SlotState::kInFlight : SlotState::kUnknown;
}

bool Directory::Mirror(uint32_t slot, const uint8_t *page, uint32_t packet) {
    if (!mirror_ || slot >= slots() || mirror_used() >= mirror_pages_ ||
        header_->mirror_used.fetch_add(1, std::memory_order_relaxed) >= mirror_pages_) {
        return false;
    }
    // Not through the mapping: a page fault costs more, and a host without
    // memory shows as an error, not as a signal.
    if (pwrite(fd_, page, kPageSize, static_cast<off_t>(mirror_off_ + uint64_t{slot} * kPageSize)) !=
        static_cast<ssize_t>(kPageSize)) {
        return false;
    }
    mirrored_[slot].store(packet, std::memory_order_release);
    return true;
}

uint64_t Directory::mirror_used() const {
    return std::min(header_->mirror_used.load(std::memory_order_relaxed), mirror_pages_);
}

uint64_t Directory::slots_taken() const {
    const uint64_t next = header_->next_chunk.load(std::memory_order_relaxed);
    return next == kNoChunks ? 0 : std::min(next, chunk_count_) * kChunkSlots;
}

void Directory::SetAcked(uint32_t member, uint32_t channel, uint32_t packet) {
    if (member < kMaxMembers && channel < kMaxChannels) {
        members_[member].acked[channel].store(packet, std::memory_order_release);
    }
}

uint32_t Directory::acked(uint32_t member, uint32_t channel) const {
    if (member >= kMaxMembers || channel >= kMaxChannels) {
        return 0;
    }
    return members_[member].acked[channel].load(std::memory_order_acquire);
}

} // namespace gang
