// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Sealed memfds and their mappings.

#include "segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace gang {

Status CreateSealedMemfd(const char *name, uint64_t size, int *fd) {
    int f = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (f < 0) {
        return Status::System("memfd_create", errno);
    }
    if (ftruncate(f, static_cast<off_t>(size)) != 0 ||
        fcntl(f, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int err = errno;
        close(f);
        return Status::System("sizing a memfd of " + std::to_string(size) + " bytes", err);
    }
    *fd = f;
    return Status::Ok();
}

void InitSegmentHeader(SegmentHeader *header, uint64_t magic, size_t header_size, uint64_t size) {
    header->magic = magic;
    header->layout_version = kLayoutVersion;
    header->header_size = static_cast<uint32_t>(header_size);
    header->layout_signature = LayoutSignature();
    header->segment_size = size;
}

Segment::~Segment() {
    if (data_) {
        munmap(data_, size_);
    }
}

Segment::Segment(Segment &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Segment &Segment::operator=(Segment &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

Status Segment::Map(int fd, uint64_t magic, size_t header_size) {
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return Status::System("fstat of a shared segment", errno);
    }
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW)) {
        return {Code::kInvalid, "the shared segment is not a sealed memfd"};
    }
    uint64_t size = static_cast<uint64_t>(st.st_size);
    if (size < header_size) {
        return {Code::kInvalid, "the shared segment is smaller than its header"};
    }
    void *p = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        return Status::System("mapping a shared segment", errno);
    }
    // A gang's memory must not end up in a core dump or a forked child.
    madvise(p, size, MADV_DONTDUMP);
    madvise(p, size, MADV_DONTFORK);
    Segment mapped;
    mapped.data_ = static_cast<uint8_t *>(p);
    mapped.size_ = size;

    SegmentHeader h;
    memcpy(&h, p, sizeof(h));
    if (h.magic != magic) {
        return {Code::kInvalid, "the shared segment has the wrong magic"};
    }
    if (h.layout_version != kLayoutVersion || h.header_size != header_size ||
        h.layout_signature != LayoutSignature()) {
        return {Code::kIncompatible,
                "the shared segment was made by another build (layout " +
                    std::to_string(h.layout_version) + ", this build has " +
                    std::to_string(kLayoutVersion) +
                    "): install QEMU and gangd from the same build"};
    }
    if (h.segment_size != size) {
        return {Code::kInvalid, "the shared segment's size disagrees with its header"};
    }
    *this = std::move(mapped);
    return Status::Ok();
}

Status Segment::AllowWrites(uint64_t size) {
    if (size > size_ || mprotect(data_, size, PROT_READ | PROT_WRITE) != 0) {
        return Status::System("making a shared segment writable", size > size_ ? EINVAL : errno);
    }
    return Status::Ok();
}

void Segment::Trim(uint64_t size) {
    if (size < size_ && munmap(data_ + size, size_ - size) == 0) {
        size_ = size;
    }
}

} // namespace gang
