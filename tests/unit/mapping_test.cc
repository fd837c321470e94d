// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What a member's mappings let it write: no page of the store, no page of the
// mirror.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>

#include "testing.h"

namespace gang {
namespace {

using test::Fd;

// Whether a write through this address faults: the kernel's own, which says so
// instead of a signal.
bool Faults(uint64_t address) {
    Fd zero;
    *zero.out() = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    char byte;
    // Only where there is something to read.
    EXPECT_EQ(pread(zero.get(), &byte, 1, 0), 1);
    const ssize_t n = read(zero.get(), reinterpret_cast<void *>(address), 1);
    return n < 0 && errno == EFAULT;
}

// Checks each mapping of the file: up to `writable` bytes of it can be written, what
// comes after can only be read.
void CheckMappings(int fd, uint64_t writable, uint64_t size) {
    struct stat st;
    ASSERT_EQ(fstat(fd, &st), 0);
    std::ifstream maps("/proc/self/maps");
    uint64_t seen = 0;
    for (std::string line; std::getline(maps, line);) {
        uint64_t start, end, offset, inode;
        char access[5];
        if (sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %" SCNu64, &start,
                   &end, access, &offset, &inode) != 5 ||
            inode != st.st_ino) {
            continue;
        }
        seen += end - start;
        const bool can_write = offset < writable;
        EXPECT_TRUE(!can_write || offset + (end - start) <= writable) << line;
        EXPECT_EQ(std::string(access), can_write ? "rw-s" : "r--s");
        // Its last byte: the first of a header must stay what it is.
        EXPECT_EQ(Faults(end - 1), !can_write) << line;
    }
    EXPECT_EQ(seen, (size + kPageSize - 1) / kPageSize * kPageSize);
}

TEST(Mapping, OfTheStoresPagesCannotBeWritten) {
    constexpr uint64_t kSlots = 200;
    Fd fd;
    std::unique_ptr<Store> store;
    GANG_OK(Store::Create(kSlots, HashKind::kXxh3_128, fd.out()));
    GANG_OK(Store::Open(fd.get(), &store));
    CheckMappings(fd.get(), Store::SizeFor(kSlots) - kSlots * kPageSize, store->size());
    alignas(64) uint8_t page[kPageSize], out[kPageSize];
    test::FillPage(page, 3);
    Hash hash;
    GANG_OK(store->Put(kSlots - 1, page, &hash)); // and yet it is filled
    GANG_OK(store->Get(kSlots - 1, out, &hash));
}

TEST(Mapping, OfAnObserverCannotBeWrittenAtAll) {
    constexpr uint64_t kSlots = 200;
    Fd fd;
    std::unique_ptr<Store> store;
    GANG_OK(Store::Create(kSlots, HashKind::kXxh3_128, fd.out()));
    GANG_OK(Store::Open(fd.get(), &store, Store::Access::kObserver));
    CheckMappings(fd.get(), 0, store->size());
    EXPECT_EQ(store->slots_used(), 0u);
}

TEST(Mapping, OfTheMirrorCannotBeWritten) {
    constexpr uint64_t kSlots = 128;
    test::Gang gang(kSlots, 256, kSlots);
    Directory &d = *gang.directory;
    CheckMappings(gang.directory_fd.get(), d.size(), d.size() + kSlots * kPageSize);
    const uint32_t member = gang.AddMember(); // what has to be written can be
    uint32_t slot;
    ASSERT_TRUE(d.TakeChunk(member, 0, &slot));
    alignas(64) uint8_t page[kPageSize];
    test::FillPage(page, 3);
    ASSERT_TRUE(d.Mirror(slot, page, 1));
    EXPECT_EQ(memcmp(d.mirror(slot), page, kPageSize), 0);
    EXPECT_TRUE(Faults(reinterpret_cast<uint64_t>(d.mirror(slot))));
}

TEST(Mapping, OfAnObserverHasNoMirror) {
    constexpr uint64_t kSlots = 128;
    test::Gang gang(kSlots, 256, kSlots);
    const uint64_t size = gang.directory->size();
    gang.directory.reset();
    std::unique_ptr<Directory> d;
    GANG_OK(Directory::Open(gang.directory_fd.get(), &d, Directory::Access::kObserver));
    CheckMappings(gang.directory_fd.get(), size, size);
    EXPECT_FALSE(d->has_mirror());
    EXPECT_EQ(d->slots(), kSlots);
    uint32_t member;
    GANG_OK(d->AddMember(1, &member));
    uint32_t slot;
    ASSERT_TRUE(d->TakeChunk(member, 0, &slot));
    alignas(64) uint8_t page[kPageSize] = {};
    EXPECT_FALSE(d->Mirror(slot, page, 1));
    EXPECT_EQ(d->slot_state(slot), SlotState::kUnknown);
}

TEST(Mapping, OfADirectoryWithoutMirrorIsWritable) {
    test::Gang gang(128, 256);
    CheckMappings(gang.directory_fd.get(), gang.directory->size(), gang.directory->size());
}

} // namespace
} // namespace gang
