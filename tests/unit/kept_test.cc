// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What a destination keeps for another attempt: saved pages, the inventory, and a
// directory that knows of them and fills no slot twice.

#include "kept.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "directory.h"
#include "testing.h"

namespace gang {
namespace {

using namespace test;

constexpr uint64_t kSlots = 8 * kChunkSlots, kOpen = 6 * kChunkSlots;

class KeptTest : public testing::Test {
  protected:
    KeptTest() {
        EXPECT_TRUE(Store::Create(kSlots, HashKind::kXxh3_128, fd_.out(), kOpen).ok());
        EXPECT_TRUE(Store::Open(fd_.get(), &known_, Store::Access::kObserver).ok());
        EXPECT_TRUE(Store::Open(fd_.get(), &store_).ok());
    }
    // As gangd does when the next attempt begins, and a new member after it.
    void Renew() {
        GANG_OK(Store::Renew(fd_.get(), *known_));
        GANG_OK(Store::Open(fd_.get(), &store_));
        DirectoryConfig config;
        config.store_uuid = store_->uuid();
        config.seed = store_->seed();
        config.gang_pages = 512;
        config.store_slots = store_->slots();
        config.kept = true;
        directory_fd_ = std::make_unique<Fd>();
        GANG_OK(Directory::Create(config, directory_fd_->out()));
        GANG_OK(Directory::Open(directory_fd_->get(), &directory_));
        GANG_OK(directory_->AddMember(1, &member_));
    }
    Hash Put(uint32_t slot, uint64_t content) {
        uint8_t page[kPageSize];
        FillPage(page, content);
        Hash hash;
        EXPECT_TRUE(store_->Put(slot, page, &hash).ok());
        return hash;
    }
    Hash HashOf(uint64_t content) {
        uint8_t page[kPageSize];
        FillPage(page, content);
        return store_->hasher()(page, kPageSize);
    }
    // All messages go from the store to the directory; returns the slots told.
    std::set<uint32_t> Tell() {
        std::set<uint32_t> told;
        Teller teller(store_.get());
        uint8_t message[kMaxReturnMessage];
        EXPECT_TRUE(directory_->AskInventory(member_));
        for (size_t size; (size = teller.Next(message)) != 0;) {
            uint32_t first, open;
            uint64_t count_told;
            size_t count;
            Hash hashes[kInventorySlots];
            if (ParseInventory(message, size, &first, hashes, &count).ok()) {
                for (size_t i = 0; i < count; i++) {
                    EXPECT_TRUE(told.insert(first + static_cast<uint32_t>(i)).second);
                    EXPECT_TRUE(directory_->Keep(first + static_cast<uint32_t>(i), hashes[i]));
                }
            } else {
                EXPECT_TRUE(ParseInventoryEnd(message, size, &open, &count_told).ok());
                EXPECT_EQ(open, kOpen);
                EXPECT_EQ(count_told, told.size());
                directory_->EndInventory(member_, open);
            }
        }
        return told;
    }

    Fd fd_;
    std::unique_ptr<Store> known_, store_;
    std::unique_ptr<Fd> directory_fd_;
    std::unique_ptr<Directory> directory_;
    uint32_t member_ = 0;
};

TEST_F(KeptTest, RenewedStoreHasItsContentAndSeedAndAnotherName) {
    const Hash hash = Put(3, 7);
    const Uuid uuid = store_->uuid();
    const Seed seed = store_->seed();
    EXPECT_FALSE(store_->kept());
    Renew();
    EXPECT_TRUE(store_->kept());
    EXPECT_NE(store_->uuid(), uuid);
    EXPECT_EQ(store_->seed(), seed);
    EXPECT_EQ(store_->open_slots(), kOpen);
    uint8_t page[kPageSize];
    Hash found;
    GANG_OK(store_->Get(3, page, &found));
    EXPECT_EQ(found, hash);
}

TEST_F(KeptTest, NothingIsPublishedBeforeAllIsToldAndWhatIsToldIsReferenced) {
    const Hash hash = Put(5, 7);
    Renew();
    uint32_t slot;
    EXPECT_FALSE(directory_->inventory_complete());
    EXPECT_FALSE(directory_->TakeChunk(member_, 0, &slot));
    EXPECT_EQ(directory_->slots_taken(), 0u);
    EXPECT_EQ(Tell(), std::set<uint32_t>{5});
    EXPECT_TRUE(directory_->inventory_complete());
    const Decision d = directory_->Decide(hash, member_);
    EXPECT_EQ(d.verdict, Verdict::kReference);
    EXPECT_EQ(d.slot, 5u);
    EXPECT_TRUE(directory_->Confirmed(d.claim));
    // The rest of the chunk is used, and nothing of what is for saved pages.
    ASSERT_TRUE(directory_->TakeChunk(member_, 0, &slot));
    EXPECT_EQ(slot, 6u);
    uint32_t chunks = 1;
    while (directory_->TakeChunk(member_, 0, &slot)) {
        EXPECT_LT(slot, kOpen);
        EXPECT_EQ(slot % kChunkSlots, 0u);
        chunks++;
    }
    EXPECT_EQ(chunks, kOpen / kChunkSlots);
}

TEST_F(KeptTest, ChunkThatIsFullIsNotHandedOut) {
    for (uint32_t slot = 0; slot < kChunkSlots; slot++) {
        Put(slot, 100 + slot);
    }
    Renew();
    EXPECT_EQ(Tell().size(), kChunkSlots);
    uint32_t slot;
    ASSERT_TRUE(directory_->TakeChunk(member_, 0, &slot));
    EXPECT_EQ(slot, kChunkSlots);
}

TEST_F(KeptTest, SavedPagesAreToldAndEachContentIsSavedOnce) {
    Put(0, 1);
    GuestMemory memory(8);
    const uint64_t contents[] = {1, 2, 3, 2, 0, 4, 5, 1};
    for (size_t i = 0; i < 8; i++) {
        FillPage(memory.page(i), contents[i]);
    }
    Saver saver(store_.get()), clone(store_.get());
    EXPECT_TRUE(saver.Save(memory.data(), memory.offsets().data(), 8, IsZero));
    EXPECT_EQ(saver.saved(), 4u); // 2 to 5
    EXPECT_TRUE(clone.Save(memory.data(), memory.offsets().data(), 8, IsZero));
    EXPECT_EQ(clone.saved(), 0u);
    Renew();
    EXPECT_EQ(Tell(), (std::set<uint32_t>{0, kOpen, kOpen + 1, kOpen + 2, kOpen + 3}));
    for (uint64_t content = 1; content <= 5; content++) {
        EXPECT_EQ(directory_->Decide(HashOf(content), member_).verdict, Verdict::kReference);
    }
}

TEST_F(KeptTest, Inv8_NoMoreIsSavedThanThereIsRoomForOverManyAttempts) {
    GuestMemory memory(32);
    uint64_t content = 1000, saved = 0;
    bool room = true;
    for (int attempt = 0; attempt < 20; attempt++) {
        for (size_t i = 0; i < 32; i++) {
            FillPage(memory.page(i), content++);
        }
        Saver saver(store_.get());
        room = saver.Save(memory.data(), memory.offsets().data(), 32, IsZero);
        saved += saver.saved();
        EXPECT_EQ(room, saved <= kSlots - kOpen && saver.saved() == 32);
        Renew();
        EXPECT_EQ(Tell().size(), saved);
        uint32_t slot;
        EXPECT_TRUE(directory_->TakeChunk(member_, 0, &slot)); // publishing goes on
        EXPECT_EQ(slot, 0u);
    }
    EXPECT_FALSE(room);
    EXPECT_EQ(saved, kSlots - kOpen); // no slot was lost on the way
}

TEST_F(KeptTest, Inv5_SlotThatDoesNotHoldWhatItSaysIsEmptied) {
    Put(0, 1);
    Put(1, 2);
    Put(2, 3);
    uint8_t other[kPageSize];
    FillPage(other, 9);
    const off_t data = static_cast<off_t>(store_->size() - kSlots * kPageSize);
    ASSERT_EQ(pwrite(fd_.get(), other, kPageSize, data + kPageSize), ssize_t{kPageSize});
    Renew();
    EXPECT_EQ(Tell(), (std::set<uint32_t>{0, 2}));
    Hash hash;
    EXPECT_FALSE(store_->Get(1, other, &hash).ok());
}

// Otherwise whoever writes the slots' states has another member's process charged for them.
TEST_F(KeptTest, Inv8_TellingOfSlotsThatAreHolesFillsNoMemory) {
    Put(0, 1);
    Renew();
    auto *meta = static_cast<SlotMeta *>(mmap(nullptr, kSlots * sizeof(SlotMeta),
                                              PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(),
                                              sysconf(_SC_PAGESIZE)));
    ASSERT_NE(meta, MAP_FAILED);
    for (uint32_t slot = 0; slot < kSlots; slot++) {
        meta[slot].state.store(kSlotValid);
    }
    struct stat before, after;
    ASSERT_EQ(fstat(fd_.get(), &before), 0);
    EXPECT_EQ(Tell(), (std::set<uint32_t>{0}));
    ASSERT_EQ(fstat(fd_.get(), &after), 0);
    EXPECT_EQ(after.st_blocks, before.st_blocks);
    munmap(meta, kSlots * sizeof(SlotMeta));
}

TEST_F(KeptTest, Inv4_AnotherMemberAsksWhenTheAskerEnds) {
    Put(0, 1);
    Renew();
    uint32_t other;
    GANG_OK(directory_->AddMember(2, &other));
    EXPECT_TRUE(directory_->AskInventory(member_));
    EXPECT_FALSE(directory_->AskInventory(member_)); // once
    EXPECT_FALSE(directory_->AskInventory(other));
    directory_->SetMemberState(member_, MemberState::kDead);
    EXPECT_TRUE(directory_->AskInventory(other));
    // The first one was only slow: it ends nothing.
    directory_->EndInventory(member_, kOpen);
    EXPECT_FALSE(directory_->inventory_complete());
    directory_->EndInventory(other, kOpen);
    EXPECT_TRUE(directory_->inventory_complete());
    EXPECT_FALSE(directory_->AskInventory(member_));
}

TEST_F(KeptTest, Inv5_SlotsAndHashesThatDoNotExistAreRefused) {
    Renew();
    EXPECT_FALSE(directory_->Keep(kSlots, {1, 1}));
    EXPECT_FALSE(directory_->Keep(0, {0, 1}));
    EXPECT_FALSE(directory_->Keep(0, {1, 0}));
    uint8_t message[kMaxReturnMessage + 1];
    Hash hashes[kInventorySlots] = {}, parsed[kInventorySlots];
    uint32_t first;
    size_t count;
    for (Hash &hash : hashes) {
        hash = {3, 4};
    }
    const size_t size = StoreInventory(7, hashes, kInventorySlots, message);
    EXPECT_TRUE(ParseInventory(message, size, &first, parsed, &count).ok());
    for (size_t wrong = 0; wrong <= sizeof(message); wrong++) {
        EXPECT_EQ(ParseInventory(message, wrong, &first, parsed, &count).ok(), wrong == size);
    }
    message[3] = kInventorySlots + 1;
    EXPECT_FALSE(ParseInventory(message, sizeof(message), &first, parsed, &count).ok());
    message[3] = 0;
    EXPECT_FALSE(ParseInventory(message, 8, &first, parsed, &count).ok());
    hashes[1].hi = 0;
    StoreInventory(7, hashes, 2, message);
    EXPECT_FALSE(ParseInventory(message, InventorySize(2), &first, parsed, &count).ok());
}

TEST(Inventory, HasTheBytesOfTheDocument) {
    uint8_t out[kMaxReturnMessage] = {};
    const Hash hash = {0x0102030405060708, 0x1112131415161718};
    ASSERT_EQ(StoreInventory(0x21222324, &hash, 1, out), 24u);
    const uint8_t expected[24] = {0,    3, 0, 1, 0x21, 0x22, 0x23, 0x24, 1,    2,    3,    4,
                                  5,    6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18};
    EXPECT_EQ(memcmp(out, expected, sizeof(expected)), 0);
    StoreInventoryEnd(0x31323334, 5, out);
    const uint8_t end[16] = {0, 4, 0, 0, 0x31, 0x32, 0x33, 0x34, 0, 0, 0, 0, 0, 0, 0, 5};
    EXPECT_EQ(memcmp(out, end, sizeof(end)), 0);
    uint32_t open;
    uint64_t told;
    GANG_OK(ParseInventoryEnd(out, sizeof(end), &open, &told));
    EXPECT_EQ(open, 0x31323334u);
    EXPECT_EQ(told, 5u);
    EXPECT_FALSE(ParseInventoryEnd(out, 15, &open, &told).ok());
    out[3] = 1;
    EXPECT_FALSE(ParseInventoryEnd(out, sizeof(end), &open, &told).ok());
}

} // namespace
} // namespace gang
