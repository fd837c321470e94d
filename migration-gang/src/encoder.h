// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The source's side of one multifd channel: a batch of guest pages becomes one
// packet, and a list of pages that are better looked at again later.

#ifndef GANG_ENCODER_H
#define GANG_ENCODER_H

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "directory.h"
#include "status.h"
#include "wire.h"

struct ZSTD_CCtx_s;

namespace gang {

// True when `size` bytes at `page` are all zero.
using IsZeroFn = bool (*)(const void *page, size_t size);

struct EncoderOptions {
    PayloadEncoding encoding = PayloadEncoding::kZstd;
    int level = 1;
    Seed seed{}; // of the greeting; a directory brings it along
};

// A page that was not sent because another member has its content in flight.
struct Deferred {
    void *block;           // the caller's cookie for the RAMBlock
    uint64_t offset;       // bytes
    const Entry *entry;    // whose claim to look at again
};

// What Encode() made.  Buffers belong to the encoder and stay valid until the
// next Encode(); literal pages of a raw payload are sent from guest memory.
struct EncodedPacket {
    const uint8_t *header = nullptr; // header and page descriptions
    size_t header_size = 0;
    const iovec *payload = nullptr;
    size_t payload_count = 0;
    size_t payload_size = 0;
    size_t zero_pages = 0;
    size_t sent_pages = 0; // without zero pages
    size_t deferred_pages = 0;
    bool empty() const { return header_size == 0; } // everything was deferred
};

// Tells whether a claim's owner has stopped making progress; see StallWatch.
class StallWatch;

// Not thread-safe: one channel thread.  `directory` may be null (no
// coordinator any more): then everything is sent in full.
class Encoder {
  public:
    static Status Create(Directory *directory, StallWatch *stalls, uint32_t member,
                         uint32_t channel, const EncoderOptions &options,
                         std::unique_ptr<Encoder> *out);
    ~Encoder();

    // Encodes `count` (<= kMaxPacketPages) pages at `host + offsets[i]` of the
    // RAMBlock `id`.  The guest may write them meanwhile: what is published is
    // copied first and hashed from the copy (invariant 3).  Pages it decides
    // to defer are appended to `deferred` when that is not null; null: nothing
    // may be deferred.  `is_zero` null: zero pages are not detected here.
    Status Encode(const char *id, void *block, const uint8_t *host, const uint64_t *offsets,
                  size_t count, IsZeroFn is_zero, std::vector<Deferred> *deferred,
                  EncodedPacket *packet);

  private:
    struct Page {
        const uint8_t *data; // to send from: guest memory or the staging copy
        uint64_t number;     // offset / kPageSize
        uint32_t slot;
        PageKind kind;       // kInvalid: deferred
        Hash hash;
    };
    Encoder() = default;
    void Decide(Page *page, void *block, std::vector<Deferred> *deferred, size_t *staged);
    bool Publish(Page *page, const Decision &decision, size_t *staged);
    bool NextSlot(uint32_t *slot);
    size_t Describe(const char *id, size_t count, uint8_t *out);
    Status Compress(size_t count, EncodedPacket *packet);

    struct CctxDeleter {
        void operator()(ZSTD_CCtx_s *c) const;
    };

    Directory *directory_ = nullptr;
    StallWatch *stalls_ = nullptr;
    uint32_t member_ = 0;
    uint32_t channel_ = 0;
    EncoderOptions options_;
    Hasher hasher_;
    std::unique_ptr<ZSTD_CCtx_s, CctxDeleter> zstd_;
    ChannelState state_;
    uint32_t next_slot_ = 0; // in the chunk at hand
    uint32_t chunk_end_ = 0;
    uint32_t packet_number_ = 0; // of the last packet
    std::vector<Page> pages_;
    std::vector<uint8_t> staging_; // copies of the pages being published
    std::vector<uint8_t> header_;
    std::vector<uint8_t> compressed_;
    std::vector<iovec> iov_;
    std::vector<Hash> shared_;
};

// Tells members whose acknowledgements have stopped from those that are slow:
// a channel somebody here waits for, and that has not moved for limit_ms, is
// stalled until it moves again; nobody waits for it then.
// Thread-safety: Observe() by one thread, the rest by any.
class StallWatch {
  public:
    StallWatch(const Directory *directory, uint64_t limit_ms)
        : directory_(directory), limit_ms_(limit_ms) {}
    // `now_ms`: any steady clock.
    void Observe(uint64_t now_ms);
    // Somebody waits for this channel.  Counts until the channel moves: whoever
    // waits for more than its next packet says so again then.
    void Wait(uint32_t member, uint32_t channel) {
        channels_[member][channel].waited_for.store(true, std::memory_order_relaxed);
    }
    bool Stalled(uint32_t member, uint32_t channel) const {
        return channels_[member][channel].stalled.load(std::memory_order_relaxed);
    }

  private:
    struct Channel {
        std::atomic<bool> waited_for{false};
        std::atomic<bool> stalled{false};
        bool watched = false; // waited for since since_ms, without moving
        uint32_t acked = 0;
        uint64_t since_ms = 0;
    };
    const Directory *directory_;
    uint64_t limit_ms_;
    Channel channels_[kMaxMembers][kMaxChannels];
};

} // namespace gang

#endif
