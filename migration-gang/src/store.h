// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The store: slot -> one page of content.  One per gang, in shared memory on
// the destination host.  gangd creates it, the gang's destination QEMUs put
// published pages in and copy referenced pages out.

#ifndef GANG_STORE_H
#define GANG_STORE_H

#include <cstdint>
#include <memory>

#include "hash.h"
#include "layout.h"
#include "segment.h"
#include "status.h"

namespace gang {

// Thread-safe between processes: a slot is written once, by the member whose
// source chose it, and read only after it is valid.
class Store {
  public:
    static uint64_t SizeFor(uint64_t slots);
    // A new store with a random uuid and hash seed (getrandom).  Pages are
    // taken from the host only when slots are filled.  The caller owns *fd.
    // Slots from `open_slots` on are for Save().
    static Status Create(uint64_t slots, HashKind hash_kind, int *fd,
                         uint64_t open_slots = UINT64_MAX);
    // Makes a store that nobody uses ready for another attempt: its content and seed
    // stay, its uuid is new, so that no directory made for the old one is used with
    // it.  `known` is gangd's view of it from before any member had it: nothing that
    // members may have written into the header is believed.
    static Status Renew(int fd, const Store &known);
    // Maps and checks; `fd` stays the caller's.  No access lets the mapping of the
    // pages be written; kObserver none of it at all: no Put().
    enum class Access { kMember, kObserver };
    static Status Open(int fd, std::unique_ptr<Store> *out, Access access = Access::kMember);
    ~Store();

    // Copies `count` (<= kMaxPut) pages into the slots from `slot` on and says
    // what they hash to.  The pages must not change meanwhile; what the store
    // holds is hashed again whenever it is used.  Written through the
    // descriptor: a page fault a page would cost twice as much.  kInvalid: no
    // such slot, or filled already.
    Status Put(uint32_t slot, const uint8_t *const pages[], size_t count, Hash *hashes);
    static constexpr size_t kMaxPut = kChunkSlots;
    Status Put(uint32_t slot, const uint8_t *page, Hash *hash) { return Put(slot, &page, 1, hash); }
    // Puts pages into slots that no source chooses.  kExhausted: no more are free.
    Status Save(const uint8_t *const pages[], size_t count, Hash *hashes);
    // The first slot from `slot` on that is filled; slots(): none.
    uint64_t NextFilled(uint64_t slot) const;
    // What a filled slot should hash to, as it says.
    Hash Said(uint32_t slot) const;
    // Makes a slot empty whose content is not what it says.
    void Clear(uint32_t slot) { meta_[slot].state.store(kSlotEmpty, std::memory_order_release); }
    // Copies `slot` to `page`, hashes the copy and compares it with what the
    // slot was stored with.  kInvalid: no such slot or nothing in it;
    // kCorrupt: the bytes changed.  kRead is a system call, and leaves a slot that says it
    // holds something and is a hole one: through the mapping the kernel would fill it.
    enum class How {
        kMapped,
        kRead
    };
    Status Get(uint32_t slot, uint8_t *page, Hash *hash, How how = How::kMapped) const;

    const Uuid &uuid() const { return uuid_; }
    const Seed &seed() const { return seed_; }
    HashKind hash_kind() const { return hash_kind_; }
    uint64_t slots() const { return slots_; }
    uint64_t open_slots() const { return open_slots_; } // at most slots(), whole chunks
    bool kept() const { return generation_ != 0; }      // from an attempt before
    uint64_t saved() const { return header_->saved.load(std::memory_order_relaxed); }
    uint64_t slots_used() const;
    uint64_t size() const { return segment_.size(); }
    int fd() const { return fd_; } // of the segment; stays the store's
    const Hasher &hasher() const { return hasher_; }

  private:
    Store() = default;

    Segment segment_;
    int fd_ = -1;
    uint64_t data_off_ = 0;
    StoreHeader *header_ = nullptr;
    SlotMeta *meta_ = nullptr;
    const uint8_t *data_ = nullptr;
    uint64_t slots_ = 0;
    uint64_t open_slots_ = 0;
    uint64_t generation_ = 0;
    Uuid uuid_{};
    Seed seed_{};
    HashKind hash_kind_ = HashKind::kInvalid;
    Hasher hasher_;
};

} // namespace gang

#endif
