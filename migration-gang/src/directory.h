// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The directory: content hash -> what the gang knows about it.  One per gang
// and store, in shared memory on the source host.  gangd creates it, member
// QEMUs scan into it and decide by it.

#ifndef GANG_DIRECTORY_H
#define GANG_DIRECTORY_H

#include <array>
#include <cstdint>
#include <memory>

#include "hash.h"
#include "layout.h"
#include "page_features.h"
#include "segment.h"
#include "status.h"

namespace gang {

struct DirectoryConfig {
    Uuid store_uuid{};
    Seed seed{};
    HashKind hash_kind = HashKind::kXxh3_128;
    uint64_t gang_pages = 0;  // RAM pages of all members together
    uint64_t store_slots = 0; // capacity of the store at the destination
    uint64_t mirror_pages = 0; // most pages the mirror may hold; 0: no mirror
    bool kept = false;         // the store holds something already: an inventory will tell
};

// What is known of a slot that might serve as the base of a delta.
enum class SlotState {
    kUnknown,   // nobody alive is about to fill it
    kInFlight,  // its owner is alive and has not been acknowledged
    kConfirmed, // in the store, and its bytes are in the mirror
};

// What to do with a page, decided by Directory::Decide().
enum class Verdict {
    kLiteral,   // send in full
    kPublish,   // worth keeping and unclaimed: copy, hash the copy, Claim()
    kReference, // confirmed at the destination, in Decision::slot
    kDefer,     // somebody alive has it in flight
};

struct Decision {
    Verdict verdict = Verdict::kLiteral;
    uint32_t slot = 0;             // kReference: where; kDefer: the claim's slot
    uint64_t claim = 0;            // the claim word the verdict was read from
    Entry *entry = nullptr;        // nullptr: the directory is full
};

// Thread-safe: every method may be called by any thread of any process that
// maps the segment.  Invariants: a claim that is confirmed while its
// owner is alive never changes; an entry's hash never changes once complete.
class Directory {
  public:
    // Bytes the directory for this configuration takes, without the mirror; at
    // most 1.5 % of the gang's RAM for gangs of 64 MiB and more (invariant 8).
    static uint64_t SizeFor(const DirectoryConfig &config);
    // Creates the sealed memfd; the caller owns *fd.
    static Status Create(const DirectoryConfig &config, int *fd);
    // Maps and checks; `fd` stays the caller's.  kObserver maps no mirror, as if there
    // were none, but for mirror_used(): its address space is the largest part.
    enum class Access { kMember, kObserver };
    static Status Open(int fd, std::unique_ptr<Directory> *out, Access access = Access::kMember);
    ~Directory();

    // --- gangd: members
    // Takes a free member record; kExhausted when kMaxMembers have joined.
    Status AddMember(uint32_t pid, uint32_t *index);
    void SetMemberState(uint32_t index, MemberState state);
    MemberState member_state(uint32_t index) const;
    // Of whoever took the record; 0: there is no such record.
    uint32_t member_pid(uint32_t index) const;

    uint64_t stat(uint32_t index, Stat stat) const;
    void AddStat(uint32_t index, Stat stat, uint64_t n);
    void SetStat(uint32_t index, Stat stat, uint64_t value);

    // --- scan
    // Counts one more occurrence of `hash`.  Returns true when the content was
    // known already.  A full directory counts nothing and returns false.
    bool Count(const Hash &hash);
    // Counts a content's features; once for each content.
    void CountFeatures(const Features &features);

    // --- send
    // Brings the cache line that Decide(hash) will read closer.
    void Prefetch(const Hash &hash) const;
    // The verdict for a page with this content, seen by `member`.  Notes a
    // literal in the entry, so that the second one of its kind is published.
    Decision Decide(const Hash &hash, uint32_t member);
    // The page was not sent after all: its literal does not count.
    void TakeBack(const Decision &decision);
    // Claims `entry` for `slot` (from TakeChunk by this member and channel),
    // which travels in packet number `packet` (>= 1).  `expected` is
    // Decision::claim.  False: somebody else was faster; do not publish.
    bool Claim(Entry *entry, uint64_t expected, uint32_t slot, uint32_t packet);
    // The confirmed slot of a claim word, or false.
    bool Confirmed(uint64_t claim) const;
    // Member and channel that a claim belongs to; false for words that make no
    // sense (a hostile or crashed writer).
    bool Owner(uint64_t claim, uint32_t *member, uint32_t *channel) const;
    // Takes a chunk for (member, channel): its slots from *first_slot on, which is its
    // first one unless the store held some already.  False: full.
    bool TakeChunk(uint32_t member, uint32_t channel, uint32_t *first_slot);

    // --- what a kept store holds; nothing is published before all of it is known
    // Whether `member` is to ask its destination; true once, unless the asker ends
    // before all was told.
    bool AskInventory(uint32_t member);
    // The store holds this in `slot`: confirmed from now on.  False: no such slot.
    bool Keep(uint32_t slot, const Hash &hash);
    // `member`'s destination has told all; slots from `open` on are not to be chosen.
    void EndInventory(uint32_t member, uint32_t open);
    bool inventory_complete() const {
        return header_->next_chunk.load(std::memory_order_acquire) != kNoChunks;
    }

    // --- similar pages
    // The slots of the pages that stand for these features, kNoSlot where none
    // does.  *shared: some other content has one of the features too, so that
    // this page may stand for it.
    static constexpr uint32_t kNoSlot = UINT32_MAX;
    void Representatives(const Features &features, std::array<uint32_t, kFeatures> *slots,
                         bool *shared) const;
    // Makes `slot`, which is mirrored, stand for those of the features that are
    // shared and have no page that is or will be in the store.
    void Represent(const Features &features, uint32_t slot);
    SlotState slot_state(uint32_t slot) const;
    // Keeps a copy of what packet `packet` (>= 1) publishes in `slot`.  False:
    // the mirror is full.  By the slot's owner, once.
    bool Mirror(uint32_t slot, const uint8_t *page, uint32_t packet);
    // The bytes of a slot whose state is kConfirmed.  Written once, by a member:
    // whoever uses them has the destination check the outcome.
    const uint8_t *mirror(uint32_t slot) const { return mirror_ + uint64_t{slot} * kPageSize; }
    uint64_t mirror_used() const;
    bool has_mirror() const { return mirror_ != nullptr; }
    bool OwnerOfSlot(uint32_t slot, uint32_t *member, uint32_t *channel) const;

    // --- acknowledgements, by the member itself
    void SetAcked(uint32_t member, uint32_t channel, uint32_t packet);
    uint32_t acked(uint32_t member, uint32_t channel) const;

    const DirectoryHeader &header() const { return *header_; }
    uint64_t slots() const { return chunk_count_ * kChunkSlots; } // that can be handed out
    uint64_t slots_taken() const; // handed out so far, in whole chunks
    uint64_t size() const { return size_; } // bytes, without the mirror
    int fd() const { return fd_; } // of the segment; stays the directory's
    const Hasher &hasher() const { return hasher_; }
    HashKind hash_kind() const { return hash_kind_; }

  private:
    Directory() = default;
    Entry *Find(const Hash &hash, bool insert, bool *existed);
    bool IsKept(uint64_t claim) const;
    void MarkKept(uint64_t chunk, uint32_t slots);
    Atomic<FeatureWord> *FindFeature(uint64_t feature) const;

    Segment segment_;
    DirectoryHeader *header_ = nullptr;
    MemberRecord *members_ = nullptr;
    Atomic<uint32_t> *chunk_owner_ = nullptr;
    Bucket *buckets_ = nullptr;
    Atomic<FeatureWord> *features_ = nullptr;
    Atomic<uint32_t> *mirrored_ = nullptr;
    const uint8_t *mirror_ = nullptr; // nullptr: there is none
    int fd_ = -1;                     // the mirror is written through it
    // Copies of the header's geometry, checked once: the header itself is
    // writable by every member and is not read again.
    uint64_t bucket_count_ = 0;
    uint64_t chunk_count_ = 0;
    uint64_t feature_sets_ = 0;
    uint64_t mirror_off_ = 0;
    uint64_t mirror_pages_ = 0;
    uint64_t size_ = 0;
    HashKind hash_kind_ = HashKind::kInvalid;
    Hasher hasher_;
};

} // namespace gang

#endif
