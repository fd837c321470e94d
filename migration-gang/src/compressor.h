// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One channel's zstd: the continuous stream of its full pages, and the frames of
// its delta pages.  The only place at the source that knows zstd.

#ifndef GANG_COMPRESSOR_H
#define GANG_COMPRESSOR_H

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "status.h"

struct ZSTD_CCtx_s;

namespace gang {

// Not thread-safe: one channel thread.
class Compressor {
  public:
    // Levels are zstd's, -50 to 20.
    static Status Create(int level, std::unique_ptr<Compressor> *out);
    ~Compressor();

    // Bytes that Stream() and Delta() need room for, for so many pages.
    static size_t Bound(size_t pages);

    // The level of what Stream() is given next.  Where it changes, the frame at
    // hand is ended and another one begins: the stream goes on, its history is
    // lost once.
    void set_level(int level) { wanted_ = level; }
    int level() const { return level_; }

    // Appends `count` pieces to the stream and flushes it; writes at most
    // `room` bytes to `out`, *size of them.
    Status Stream(const iovec *pieces, size_t count, uint8_t *out, size_t room, size_t *size);

    // One frame of its own for `data`, with `prefix` in its reach.  Neither may
    // change meanwhile.
    Status Delta(const std::vector<uint8_t> &prefix, const std::vector<uint8_t> &data, int level,
                 uint8_t *out, size_t room, size_t *size);

  private:
    Compressor() = default;
    Status Begin(int level);

    struct Deleter {
        void operator()(ZSTD_CCtx_s *c) const;
    };
    std::unique_ptr<ZSTD_CCtx_s, Deleter> stream_, delta_;
    int level_ = 1, wanted_ = 1;
    bool open_ = false; // a frame was begun and not ended
};

} // namespace gang

#endif
