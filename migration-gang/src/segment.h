// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A memfd that cannot change its size, mapped shared.

#ifndef GANG_SEGMENT_H
#define GANG_SEGMENT_H

#include <cstddef>
#include <cstdint>

#include "layout.h"
#include "status.h"

namespace gang {

// A close-on-exec memfd of `size` zero bytes, sealed against growing,
// shrinking and further seals.  The caller owns *fd.
Status CreateSealedMemfd(const char *name, uint64_t size, int *fd);

// Owns a shared mapping of a sealed memfd.  Moveable, not copyable.
// Thread-safety: the mapping is shared by all; the object itself is const
// after Map().
class Segment {
  public:
    Segment() = default;
    ~Segment();
    Segment(Segment &&other) noexcept;
    Segment &operator=(Segment &&other) noexcept;
    Segment(const Segment &) = delete;
    Segment &operator=(const Segment &) = delete;

    // Maps all of `fd` (which stays the caller's) read-only and checks what a peer
    // could have got wrong: seals, size, magic, layout version and signature.
    Status Map(int fd, uint64_t magic, size_t header_size);
    // Makes the first `size` bytes, whole pages, writable.
    Status AllowWrites(uint64_t size);
    // Unmaps what comes after the first `size` bytes, whole pages.
    void Trim(uint64_t size);

    uint8_t *data() const { return data_; }
    uint64_t size() const { return size_; }

  private:
    uint8_t *data_ = nullptr;
    uint64_t size_ = 0;
};

// One read of a word that another process may write meanwhile: what is checked is
// what is used.
template <typename T> inline T ReadOnce(const T &word) {
    return static_cast<const volatile T &>(word);
}

// Fills the header of a new segment.
void InitSegmentHeader(SegmentHeader *header, uint64_t magic, size_t header_size, uint64_t size);

} // namespace gang

#endif
