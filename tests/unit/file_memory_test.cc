// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Guest memory that is a file mapped shared: pages reach it through the file, or
// through the mapping, or not at all.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

constexpr size_t kPages = 256;
constexpr uint64_t kOffset = 3 * kPageSize; // where guest memory is in the file

class FileMemory : public testing::Test {
  protected:
    FileMemory() {
        fd_ = memfd_create("guest", MFD_CLOEXEC);
        EXPECT_EQ(ftruncate(fd_, kOffset + kPages * kPageSize), 0);
        void *p =
            mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, kOffset);
        EXPECT_NE(p, MAP_FAILED);
        host_ = static_cast<uint8_t *>(p);
        madvise(p, kPages * kPageSize, MADV_NOHUGEPAGE); // a fault a page
        for (size_t i = 0; i < kPages; i++) {
            FillPage(vm_.source.page(i), i + 1);
        }
        vm_.Scan();
    }
    ~FileMemory() override {
        munmap(host_, kPages * kPageSize);
        close(fd_);
    }

    Status Take(const Bytes &packet, int fd) {
        uint32_t ack;
        return Apply(
            vm_.decoder.get(), packet,
            [&](const std::string &) {
                return BlockAt{host_, kPages * kPageSize, fd, kOffset};
            },
            &ack);
    }
    // Every description is right, a page is not.
    Bytes Damaged() {
        Bytes packet = vm_.EncodeAll();
        packet[24] ^= 1; // of the digest
        FixCheck(&packet, gang_.store->hasher());
        return packet;
    }
    // Pages of the mapping that this process has touched, by its page table.
    size_t Mapped() const {
        uint64_t entries[kPages] = {};
        const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        EXPECT_EQ(pread(fd, entries, sizeof(entries),
                        static_cast<off_t>(reinterpret_cast<uintptr_t>(host_) / kPageSize *
                                           sizeof(entries[0]))),
                  static_cast<ssize_t>(sizeof(entries)));
        close(fd);
        return static_cast<size_t>(
            std::count_if(entries, entries + kPages, [](uint64_t entry) { return entry >> 63; }));
    }
    // Pages of the mapping that differ from the source's.
    size_t Differing() const {
        size_t n = 0;
        for (size_t i = 0; i < kPages; i++) {
            n += memcmp(vm_.source.page(i), host_ + i * kPageSize, kPageSize) != 0;
        }
        return n;
    }
    bool Touched() const {
        unsigned char resident[kPages];
        EXPECT_EQ(mincore(host_, sizeof(resident) * kPageSize, resident), 0);
        return std::any_of(resident, resident + kPages, [](unsigned char r) { return r & 1; });
    }

    Gang gang_{1 << 10, 1 << 10};
    TestVm vm_{gang_, kPages, kZstd};
    int fd_;
    uint8_t *host_;
};

TEST_F(FileMemory, PagesArriveThroughTheFile) {
    GANG_OK(Take(vm_.EncodeAll(), fd_));
    EXPECT_EQ(Differing(), 0u);
    // Nothing before it, and it has not grown.
    uint8_t before[kOffset];
    ASSERT_EQ(pread(fd_, before, sizeof(before), 0), static_cast<ssize_t>(sizeof(before)));
    EXPECT_TRUE(std::all_of(before, before + sizeof(before), [](uint8_t b) { return b == 0; }));
    EXPECT_EQ(lseek(fd_, 0, SEEK_END), static_cast<off_t>(kOffset + kPages * kPageSize));
}

TEST_F(FileMemory, PagesThroughTheFileAreNotTouched) {
    GANG_OK(Take(vm_.EncodeAll(), fd_));
    EXPECT_EQ(Mapped(), 0u);
    EXPECT_EQ(Differing(), 0u);
}

TEST_F(FileMemory, PagesThroughTheMappingAre) {
    GANG_OK(Take(vm_.EncodeAll(), -1));
    EXPECT_EQ(Mapped(), kPages);
    EXPECT_EQ(Differing(), 0u);
}

TEST_F(FileMemory, RunsSinglePagesAndGapsArrive) {
    GANG_OK(Take(vm_.Encode({0, 1, 2, 7, 9, 10, 40, 63}), fd_));
    EXPECT_EQ(Differing(), kPages - 8);
    GANG_OK(Take(vm_.Encode({62, 8, 3, 4}), fd_));
    EXPECT_EQ(Differing(), kPages - 12);
}

TEST_F(FileMemory, PagesThatAreSentAgainReplaceTheFirst) {
    GANG_OK(Take(vm_.EncodeAll(), fd_));
    for (size_t i = 0; i < kPages; i++) {
        FillPage(vm_.source.page(i), i + 1000);
    }
    GANG_OK(Take(vm_.EncodeAll(), fd_));
    EXPECT_EQ(Differing(), 0u);
}

TEST_F(FileMemory, AFileThatCannotBeWrittenIsNoError) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd_);
    const int readonly = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(readonly, 0);
    GANG_OK(Take(vm_.EncodeAll(), readonly));
    EXPECT_EQ(Differing(), 0u);
    close(readonly);
}

// What has not passed the digest never gets into a guest.
TEST_F(FileMemory, Invariant3_ADamagedPacketDoesNotReachTheFile) {
    EXPECT_EQ(Take(Damaged(), fd_).code(), Code::kCorrupt);
    EXPECT_FALSE(Touched());
}

TEST_F(FileMemory, Invariant3_ADamagedPacketDoesNotReachTheMapping) {
    EXPECT_EQ(Take(Damaged(), -1).code(), Code::kCorrupt);
    EXPECT_FALSE(Touched());
}

} // namespace
} // namespace gang
