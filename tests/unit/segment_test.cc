// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Sealed memfds: what a peer could hand over instead of a gang's memory is
// refused before anything in it is used (invariant 5).

#include "segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "testing.h"

namespace gang {
namespace {

using test::Fd;

constexpr uint64_t kMagic = 0x1122334455667788;
constexpr size_t kHeaderSize = 64;
constexpr uint64_t kSize = 8192;

// A segment whose header `change` has altered.
template <typename Change> Status MapAltered(Change change) {
    Fd fd;
    Status status = CreateSealedMemfd("test", kSize, fd.out());
    if (!status.ok()) {
        return status;
    }
    SegmentHeader h;
    InitSegmentHeader(&h, kMagic, kHeaderSize, kSize);
    change(&h);
    if (pwrite(fd.get(), &h, sizeof(h), 0) != sizeof(h)) {
        return Status::System("pwrite", errno);
    }
    Segment segment;
    return segment.Map(fd.get(), kMagic, kHeaderSize);
}

TEST(Segment, IsMappedWhenItIsWhatItSays) {
    EXPECT_TRUE(MapAltered([](SegmentHeader *) {}).ok());
}

TEST(Segment, SizeCannotChange) {
    Fd fd;
    GANG_OK(CreateSealedMemfd("test", kSize, fd.out()));
    EXPECT_NE(ftruncate(fd.get(), 2 * kSize), 0);
    EXPECT_NE(ftruncate(fd.get(), 0), 0);
    EXPECT_NE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0) << "seals can still be added";
    EXPECT_TRUE(fcntl(fd.get(), F_GETFD) & FD_CLOEXEC);
}

TEST(Segment, Invariant5_WrongMagicSizeOrHeaderSizeIsRefused) {
    EXPECT_EQ(MapAltered([](SegmentHeader *h) { h->magic++; }).code(), Code::kInvalid);
    EXPECT_EQ(MapAltered([](SegmentHeader *h) { h->segment_size++; }).code(), Code::kInvalid);
    EXPECT_EQ(MapAltered([](SegmentHeader *h) { h->segment_size = 0; }).code(), Code::kInvalid);
    EXPECT_EQ(MapAltered([](SegmentHeader *h) { h->header_size++; }).code(), Code::kIncompatible);
}

TEST(Segment, AnotherBuildsLayoutIsCalledIncompatible) {
    auto version = [](SegmentHeader *h) { h->layout_version++; };
    auto signature = [](SegmentHeader *h) { h->layout_signature ^= 1; };
    EXPECT_EQ(MapAltered(version).code(), Code::kIncompatible);
    EXPECT_EQ(MapAltered(signature).code(), Code::kIncompatible);
}

TEST(Segment, Invariant5_MemoryThatIsNotSealedIsRefused) {
    SegmentHeader h;
    InitSegmentHeader(&h, kMagic, kHeaderSize, kSize);
    const int partial[] = {0, F_SEAL_GROW, F_SEAL_SHRINK};
    for (int seals : partial) {
        Fd fd;
        *fd.out() = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        ASSERT_EQ(ftruncate(fd.get(), kSize), 0);
        ASSERT_EQ(pwrite(fd.get(), &h, sizeof(h), 0), static_cast<ssize_t>(sizeof(h)));
        ASSERT_TRUE(seals == 0 || fcntl(fd.get(), F_ADD_SEALS, seals) == 0);
        Segment segment;
        EXPECT_EQ(segment.Map(fd.get(), kMagic, kHeaderSize).code(), Code::kInvalid) << seals;
        EXPECT_EQ(segment.data(), nullptr);
    }
}

TEST(Segment, Invariant5_WhatIsNoMemfdOrTooSmallIsRefused) {
    Segment segment;
    Fd pipe_read, pipe_write, file, small;
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    *pipe_read.out() = ends[0];
    *pipe_write.out() = ends[1];
    EXPECT_FALSE(segment.Map(pipe_read.get(), kMagic, kHeaderSize).ok());
    *file.out() = open("/dev/zero", O_RDWR);
    EXPECT_FALSE(segment.Map(file.get(), kMagic, kHeaderSize).ok());
    EXPECT_FALSE(segment.Map(-1, kMagic, kHeaderSize).ok());
    GANG_OK(CreateSealedMemfd("test", kHeaderSize - 1, small.out()));
    EXPECT_FALSE(segment.Map(small.get(), kMagic, kHeaderSize).ok());
}

TEST(Segment, MovingHandsTheMappingOver) {
    Fd fd;
    GANG_OK(CreateSealedMemfd("test", kSize, fd.out()));
    SegmentHeader h;
    InitSegmentHeader(&h, kMagic, kHeaderSize, kSize);
    ASSERT_EQ(pwrite(fd.get(), &h, sizeof(h), 0), static_cast<ssize_t>(sizeof(h)));
    Segment a;
    GANG_OK(a.Map(fd.get(), kMagic, kHeaderSize));
    uint8_t *data = a.data();
    Segment b(std::move(a));
    EXPECT_EQ(b.data(), data);
    Segment c;
    c = std::move(b);
    EXPECT_EQ(c.data(), data);
    EXPECT_EQ(c.size(), kSize);
    EXPECT_EQ(c.data()[0], 0x88);
}

} // namespace
} // namespace gang
