// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The store's operations.

#include "store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace gang {

namespace {

uint64_t AlignUp(uint64_t n, uint64_t a) { return (n + a - 1) / a * a; }

constexpr uint64_t kMetaOff = 4096;

uint64_t DataOff(uint64_t slots) { return AlignUp(kMetaOff + slots * sizeof(SlotMeta), kPageSize); }

Status FillRandom(void *p, size_t n) {
    return getrandom(p, n, 0) == static_cast<ssize_t>(n) ? Status::Ok()
                                                          : Status::System("getrandom", errno);
}

// All members have one open file, with one set of flags.  With O_APPEND the kernel writes
// at its end, which the seals forbid, whatever place a write names.
bool StopAppending(int fd) {
    const int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_APPEND) && fcntl(fd, F_SETFL, flags & ~O_APPEND) == 0;
}

} // namespace

uint64_t Store::SizeFor(uint64_t slots) { return DataOff(slots) + slots * kPageSize; }

Status Store::Create(uint64_t slots, HashKind hash_kind, int *fd, uint64_t open_slots) {
    if (slots == 0 || slots > UINT32_MAX - kChunkSlots) {
        return {Code::kInvalid, "a store needs between 1 slot and 16 TiB; check --store-size"};
    }
    if (!IsKnown(hash_kind)) {
        return {Code::kIncompatible, "unknown hash kind: this build knows xxh3-128 and sha256"};
    }
    const uint64_t size = SizeFor(slots);
    int f;
    Status status = CreateSealedMemfd("gang-store", size, &f);
    if (!status.ok()) {
        return status;
    }
    void *p = mmap(nullptr, kMetaOff, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    if (p == MAP_FAILED) {
        int err = errno;
        close(f);
        return Status::System("mapping a new store", err);
    }
    auto *h = new (p) StoreHeader{};
    InitSegmentHeader(&h->segment, kStoreMagic, sizeof(*h), size);
    status = FillRandom(h->uuid.data(), h->uuid.size());
    if (status.ok()) {
        status = FillRandom(h->seed.data(), h->seed.size());
    }
    h->hash_kind = static_cast<uint32_t>(hash_kind);
    h->page_size = kPageSize;
    h->slots = slots;
    h->meta_off = kMetaOff;
    h->data_off = DataOff(slots);
    h->open_slots = open_slots >= slots ? slots : open_slots / kChunkSlots * kChunkSlots;
    munmap(p, kMetaOff);
    if (!status.ok()) {
        close(f);
        return status;
    }
    *fd = f;
    return Status::Ok();
}

Status Store::Renew(int fd, const Store &known) {
    Uuid uuid;
    Status status = FillRandom(uuid.data(), uuid.size());
    if (!status.ok()) {
        return status;
    }
    void *p = mmap(nullptr, kMetaOff, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        return Status::System("mapping a store that was kept", errno);
    }
    auto *h = static_cast<StoreHeader *>(p);
    InitSegmentHeader(&h->segment, kStoreMagic, sizeof(*h), known.size());
    h->uuid = uuid;
    h->seed = known.seed_;
    h->hash_kind = static_cast<uint32_t>(known.hash_kind_);
    h->page_size = kPageSize;
    h->slots = known.slots_;
    h->meta_off = kMetaOff;
    h->data_off = known.data_off_;
    h->open_slots = known.open_slots_;
    h->generation = known.generation_ + 1;
    munmap(p, kMetaOff);
    return Status::Ok();
}

Status Store::Open(int fd, std::unique_ptr<Store> *out, Access access) {
    Segment segment;
    Status status = segment.Map(fd, kStoreMagic, sizeof(StoreHeader));
    if (!status.ok()) {
        return status;
    }
    auto *h = reinterpret_cast<StoreHeader *>(segment.data());
    const uint64_t size = segment.size(), slots = ReadOnce(h->slots);
    const uint64_t meta_off = ReadOnce(h->meta_off), data_off = ReadOnce(h->data_off);
    const uint64_t open_slots = ReadOnce(h->open_slots);
    if (h->page_size != kPageSize || slots == 0 || slots > UINT32_MAX || meta_off != kMetaOff ||
        data_off != DataOff(slots) || SizeFor(slots) != size || open_slots > slots) {
        return {Code::kInvalid, "the store's header makes no sense"};
    }
    const HashKind hash_kind = static_cast<HashKind>(ReadOnce(h->hash_kind));
    if (!IsKnown(hash_kind)) {
        return {Code::kIncompatible, "the store uses a hash this build does not know"};
    }
    // The pages are written through the descriptor: no stray pointer reaches them.
    if (access == Access::kMember) {
        status = segment.AllowWrites(data_off);
        if (!status.ok()) {
            return status;
        }
    }
    std::unique_ptr<Store> s(new Store());
    s->header_ = h;
    s->meta_ = reinterpret_cast<SlotMeta *>(segment.data() + meta_off);
    s->data_ = segment.data() + data_off;
    s->slots_ = slots;
    s->open_slots_ = open_slots;
    s->generation_ = ReadOnce(h->generation);
    s->uuid_ = h->uuid;
    s->seed_ = h->seed;
    s->hash_kind_ = hash_kind;
    s->hasher_ = Hasher(s->seed_, hash_kind);
    s->segment_ = std::move(segment);
    s->data_off_ = data_off;
    s->fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (s->fd_ < 0) {
        return Status::System("no descriptor for the store", errno);
    }
    *out = std::move(s);
    return Status::Ok();
}

Store::~Store() {
    if (fd_ >= 0) {
        close(fd_);
    }
}

Status Store::Put(uint32_t slot, const uint8_t *const pages[], size_t count, Hash *hashes) {
    if (count > kMaxPut || slot >= slots_ || count > slots_ - slot) {
        return {Code::kInvalid, "published slot " + std::to_string(slot) + " is outside the store"};
    }
    iovec iov[kMaxPut];
    for (size_t i = 0; i < count; i++) {
        if (meta_[slot + i].state.load(std::memory_order_acquire) != kSlotEmpty) {
            return {Code::kInvalid,
                    "published slot " + std::to_string(slot + i) + " is filled already"};
        }
        iov[i] = {const_cast<uint8_t *>(pages[i]), kPageSize};
        hashes[i] = hasher_(pages[i], kPageSize);
    }
    const auto at = static_cast<off_t>(data_off_ + uint64_t{slot} * kPageSize);
    ssize_t n = pwritev(fd_, iov, static_cast<int>(count), at);
    if (n < 0 && errno == EPERM && StopAppending(fd_)) {
        n = pwritev(fd_, iov, static_cast<int>(count), at);
    }
    if (n != static_cast<ssize_t>(count * kPageSize)) {
        return Status::System("cannot write to the store; is the host's memory full?",
                              n < 0 ? errno : ENOSPC);
    }
    for (size_t i = 0; i < count; i++) {
        SlotMeta &m = meta_[slot + i];
        m.hash_lo.store(hashes[i].lo, std::memory_order_relaxed);
        m.hash_hi.store(hashes[i].hi, std::memory_order_relaxed);
        m.state.store(kSlotValid, std::memory_order_release);
    }
    header_->slots_used.fetch_add(count, std::memory_order_relaxed);
    return Status::Ok();
}

Status Store::Save(const uint8_t *const pages[], size_t count, Hash *hashes) {
    const uint64_t room = slots_ - open_slots_;
    const uint64_t saved = header_->saved.load(std::memory_order_relaxed);
    if (saved > room || count > room - saved) {
        return {Code::kExhausted, "no room to save pages in"};
    }
    // Others may have taken the room meanwhile.
    const uint64_t first = header_->saved.fetch_add(count, std::memory_order_relaxed);
    if (first > room || count > room - first) {
        return {Code::kExhausted, "no room to save pages in"};
    }
    return Put(static_cast<uint32_t>(open_slots_ + first), pages, count, hashes);
}

uint64_t Store::NextFilled(uint64_t slot) const {
    constexpr uint64_t kOfPage = kPageSize / sizeof(SlotMeta);
    for (bool look = true; slot < slots_; slot++) {
        if (look || slot % kOfPage == 0) {
            // Reading a hole through the mapping would make the kernel fill it.
            const off_t data =
                lseek(fd_, static_cast<off_t>(kMetaOff + slot * sizeof(SlotMeta)), SEEK_DATA);
            const uint64_t at = data < 0 ? UINT64_MAX : static_cast<uint64_t>(data);
            slot = std::max(slot, at < kMetaOff ? 0 : (at - kMetaOff) / sizeof(SlotMeta));
            if (slot >= slots_) {
                break;
            }
            look = false;
        }
        if (meta_[slot].state.load(std::memory_order_acquire) == kSlotValid) {
            return slot;
        }
    }
    return slots_;
}

Hash Store::Said(uint32_t slot) const {
    return {meta_[slot].hash_lo.load(std::memory_order_relaxed),
            meta_[slot].hash_hi.load(std::memory_order_relaxed)};
}

Status Store::Get(uint32_t slot, uint8_t *page, Hash *hash, How how) const {
    if (slot >= slots_) {
        return {Code::kInvalid, "referenced slot " + std::to_string(slot) + " is outside the store"};
    }
    const SlotMeta &m = meta_[slot];
    if (m.state.load(std::memory_order_acquire) != kSlotValid) {
        return {Code::kInvalid, "referenced slot " + std::to_string(slot) + " is empty"};
    }
    const uint64_t at = uint64_t{slot} * kPageSize;
    if (how == How::kMapped) {
        memcpy(page, data_ + at, kPageSize);
    } else if (pread(fd_, page, kPageSize, static_cast<off_t>(data_off_ + at)) !=
               static_cast<ssize_t>(kPageSize)) {
        return Status::System("cannot read the store", errno);
    }
    *hash = hasher_(page, kPageSize);
    if (hash->lo != m.hash_lo.load(std::memory_order_relaxed) ||
        hash->hi != m.hash_hi.load(std::memory_order_relaxed)) {
        return {Code::kCorrupt,
                "the content of slot " + std::to_string(slot) + " changed in the store"};
    }
    return Status::Ok();
}

uint64_t Store::slots_used() const { return header_->slots_used.load(std::memory_order_relaxed); }

} // namespace gang
