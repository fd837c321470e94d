// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The store's promises: a slot is filled once, and what comes out is what went
// in or an error.

#include "store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "testing.h"

namespace gang {
namespace {

using test::Fd;
using test::FillPage;

class StoreTest : public testing::Test {
  protected:
    void SetUp() override {
        GANG_OK(Store::Create(kSlots, HashKind::kXxh3_128, fd_.out()));
        GANG_OK(Store::Open(fd_.get(), &store_));
    }
    // Writes over the segment as a hostile or broken process could.
    void Overwrite(uint64_t offset, const void *bytes, size_t size) {
        ASSERT_EQ(pwrite(fd_.get(), bytes, size, static_cast<off_t>(offset)),
                  static_cast<ssize_t>(size));
    }
    template <typename T> Code OpenWith(size_t offset, T value) {
        T old;
        EXPECT_EQ(pread(fd_.get(), &old, sizeof(old), static_cast<off_t>(offset)),
                  static_cast<ssize_t>(sizeof(old)));
        Overwrite(offset, &value, sizeof(value));
        std::unique_ptr<Store> other;
        Status status = Store::Open(fd_.get(), &other);
        Overwrite(offset, &old, sizeof(old));
        return status.code();
    }

    static constexpr uint64_t kSlots = 100;
    Fd fd_;
    std::unique_ptr<Store> store_;
    alignas(64) uint8_t in_[kPageSize], out_[kPageSize];
    Hash put_, got_;
};

TEST_F(StoreTest, APageComesOutAsItWentIn) {
    for (uint32_t slot : {0u, 7u, 99u}) {
        FillPage(in_, slot + 1);
        GANG_OK(store_->Put(slot, in_, &put_));
        memset(out_, 0xaa, sizeof(out_));
        GANG_OK(store_->Get(slot, out_, &got_));
        EXPECT_EQ(memcmp(in_, out_, kPageSize), 0);
        EXPECT_EQ(put_, got_);
        EXPECT_EQ(put_, store_->hasher()(in_, kPageSize));
    }
    EXPECT_EQ(store_->slots_used(), 3u);
}

TEST_F(StoreTest, AnotherProcessesMappingSeesTheSame) {
    std::unique_ptr<Store> other;
    GANG_OK(Store::Open(fd_.get(), &other));
    EXPECT_EQ(other->uuid(), store_->uuid());
    EXPECT_EQ(other->seed(), store_->seed());
    FillPage(in_, 5);
    GANG_OK(store_->Put(5, in_, &put_));
    GANG_OK(other->Get(5, out_, &got_));
    EXPECT_EQ(memcmp(in_, out_, kPageSize), 0);
}

TEST_F(StoreTest, ASlotIsFilledOnce) {
    FillPage(in_, 1);
    GANG_OK(store_->Put(3, in_, &put_));
    FillPage(out_, 2);
    EXPECT_EQ(store_->Put(3, out_, &got_).code(), Code::kInvalid);
    GANG_OK(store_->Get(3, out_, &got_));
    EXPECT_EQ(memcmp(in_, out_, kPageSize), 0) << "the refused page is in the slot";
}

// Of the open file that all members have, which a hostile one may have set so.
TEST_F(StoreTest, Invariant4_AFlagOfTheOpenFileKeepsNobodyFromFilling) {
    FillPage(in_, 1);
    ASSERT_EQ(fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) | O_APPEND), 0);
    ASSERT_LT(pwrite(fd_.get(), in_, kPageSize, 0), 0); // the kernel's way
    GANG_OK(store_->Put(3, in_, &put_));
    GANG_OK(store_->Get(3, out_, &got_));
    EXPECT_EQ(memcmp(in_, out_, kPageSize), 0);
}

TEST_F(StoreTest, Invariant2_AnEmptySlotGivesNothing) {
    EXPECT_EQ(store_->Get(0, out_, &got_).code(), Code::kInvalid);
}

TEST_F(StoreTest, Invariant5_SlotsOutsideTheStoreAreRefused) {
    FillPage(in_, 1);
    for (uint32_t slot : {uint32_t{kSlots}, uint32_t{kSlots} + 1, UINT32_MAX, 1u << 31}) {
        EXPECT_EQ(store_->Put(slot, in_, &put_).code(), Code::kInvalid);
        EXPECT_EQ(store_->Get(slot, out_, &got_).code(), Code::kInvalid);
    }
}

TEST_F(StoreTest, Invariant3_BytesThatChangeInTheStoreAreNeverHandedOutAsGood) {
    FillPage(in_, 1);
    GANG_OK(store_->Put(4, in_, &put_));
    const uint64_t data = Store::SizeFor(kSlots) - kSlots * kPageSize + 4 * kPageSize;
    for (size_t at : {size_t{0}, size_t{1000}, size_t{4095}}) {
        uint8_t flipped = in_[at] ^ 1;
        Overwrite(data + at, &flipped, 1);
        EXPECT_EQ(store_->Get(4, out_, &got_).code(), Code::kCorrupt) << at;
        Overwrite(data + at, &in_[at], 1);
        GANG_OK(store_->Get(4, out_, &got_));
    }
}

TEST_F(StoreTest, Invariant3_AHashThatChangesInTheStoreIsAnError) {
    FillPage(in_, 1);
    GANG_OK(store_->Put(4, in_, &put_));
    uint64_t hi = put_.hi ^ 1;
    Overwrite(4096 + 4 * sizeof(SlotMeta) + offsetof(SlotMeta, hash_hi), &hi, sizeof(hi));
    EXPECT_EQ(store_->Get(4, out_, &got_).code(), Code::kCorrupt);
}

TEST_F(StoreTest, Invariant4_AMemberKilledBeforeASlotIsValidLeavesItEmpty) {
    // All that Put() writes but its last word.
    FillPage(in_, 1);
    Overwrite(Store::SizeFor(kSlots) - kSlots * kPageSize, in_, kPageSize);
    Hash hash = store_->hasher()(in_, kPageSize);
    Overwrite(4096 + offsetof(SlotMeta, hash_lo), &hash.lo, sizeof(hash.lo));
    Overwrite(4096 + offsetof(SlotMeta, hash_hi), &hash.hi, sizeof(hash.hi));
    EXPECT_EQ(store_->Get(0, out_, &got_).code(), Code::kInvalid);
    GANG_OK(store_->Put(0, in_, &put_));
}

TEST_F(StoreTest, Invariant5_AHeaderThatMakesNoSenseIsRefused) {
    const size_t slots = offsetof(StoreHeader, slots), meta = offsetof(StoreHeader, meta_off);
    for (uint64_t n : {uint64_t{0}, kSlots - 1, kSlots + 1, uint64_t{1} << 32, UINT64_MAX,
                       UINT64_MAX / kPageSize, UINT64_MAX / sizeof(SlotMeta)}) {
        EXPECT_EQ(OpenWith<uint64_t>(slots, n), Code::kInvalid) << n;
    }
    for (uint64_t n : {uint64_t{0}, uint64_t{12288}, UINT64_MAX}) {
        EXPECT_EQ(OpenWith<uint64_t>(meta, n), Code::kInvalid) << n;
        EXPECT_EQ(OpenWith<uint64_t>(offsetof(StoreHeader, data_off), n), Code::kInvalid) << n;
    }
    EXPECT_EQ(OpenWith<uint32_t>(offsetof(StoreHeader, page_size), 8192), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint32_t>(offsetof(StoreHeader, hash_kind), 0), Code::kIncompatible);
    EXPECT_EQ(OpenWith<uint32_t>(offsetof(StoreHeader, hash_kind), 3), Code::kIncompatible);
    EXPECT_EQ(OpenWith<uint64_t>(0, kDirectoryMagic), Code::kInvalid);
    EXPECT_EQ(OpenWith<uint64_t>(0, kStoreMagic), Code::kOk);
}

TEST_F(StoreTest, Invariant5_GeometryIsNotReadAgainOnceChecked) {
    uint64_t huge = UINT32_MAX;
    Overwrite(offsetof(StoreHeader, slots), &huge, sizeof(huge));
    Overwrite(offsetof(StoreHeader, data_off), &huge, sizeof(huge));
    FillPage(in_, 9);
    GANG_OK(store_->Put(9, in_, &put_));
    GANG_OK(store_->Get(9, out_, &got_));
    EXPECT_EQ(store_->Get(kSlots, out_, &got_).code(), Code::kInvalid);
}

TEST(Store, SizesThatCannotBeAreRefused) {
    Fd fd;
    EXPECT_EQ(Store::Create(0, HashKind::kXxh3_128, fd.out()).code(), Code::kInvalid);
    EXPECT_EQ(Store::Create(UINT32_MAX, HashKind::kXxh3_128, fd.out()).code(), Code::kInvalid);
    EXPECT_EQ(Store::Create(1, HashKind::kInvalid, fd.out()).code(), Code::kIncompatible);
    EXPECT_EQ(fd.get(), -1);
}

TEST(Store, TwoStoresHaveDifferentNamesAndSeeds) {
    test::Gang a(64, 64), b(64, 64);
    EXPECT_NE(a.store->uuid(), b.store->uuid());
    EXPECT_NE(a.store->seed(), b.store->seed());
}

TEST(Store, Invariant8_MemoryIsTakenOnlyForFilledSlotsAndNeverPassesTheCapacity) {
    constexpr uint64_t kSlots = 1 << 20; // 4 GiB of address space
    Fd fd;
    std::unique_ptr<Store> store;
    GANG_OK(Store::Create(kSlots, HashKind::kXxh3_128, fd.out()));
    GANG_OK(Store::Open(fd.get(), &store));
    EXPECT_EQ(store->size(), Store::SizeFor(kSlots));
    EXPECT_LE(store->size(), kSlots * (kPageSize + sizeof(SlotMeta)) + 2 * kPageSize);
    alignas(64) uint8_t page[kPageSize];
    FillPage(page, 1);
    Hash hash;
    for (uint32_t slot = 0; slot < 10; slot++) {
        GANG_OK(store->Put(slot, page, &hash));
    }
    struct stat st;
    ASSERT_EQ(fstat(fd.get(), &st), 0);
    // The pages, their descriptions, the header.
    EXPECT_LE(st.st_blocks * 512, 12 * static_cast<int64_t>(kPageSize));
}

} // namespace
} // namespace gang
