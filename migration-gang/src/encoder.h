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

#include "compressor.h"
#include "directory.h"
#include "page_features.h"
#include "level_policy.h"
#include "page_cache.h"
#include "stall_watch.h"
#include "status.h"
#include "wire.h"

namespace gang {

// True when `size` bytes at `page` are all zero.
using IsZeroFn = bool (*)(const void *page, size_t size);

// What is shared: whole pages; blocks of similar pages too; or also what zstd
// finds in similar pages.
enum class Dedup { kPage, kSubpage, kDelta };

struct EncoderOptions {
    PayloadEncoding encoding = PayloadEncoding::kZstd; // of full pages
    int level = 1;                                     // of zstd
    Seed seed{}; // of the greeting; a directory brings both along
    Dedup dedup = Dedup::kDelta;
    bool adaptive = false; // encoding and level follow the link: see LevelPolicy
    HashKind hash_kind = HashKind::kXxh3_128; // of the greeting
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

// Where a channel's own last versions of pages are, and its socket; both optional.
struct EncoderPeers {
    PageCache *cache = nullptr;
    int socket = -1; // not owned
};

// Not thread-safe: one channel thread.  `directory` may be null (no
// coordinator any more): then nothing is shared.
class Encoder {
  public:
    static Status Create(Directory *directory, StallWatch *stalls, uint32_t member,
                         uint32_t channel, const EncoderOptions &options,
                         std::unique_ptr<Encoder> *out);
    ~Encoder();

    void set_peers(const EncoderPeers &peers) { peers_ = peers; }
    // From the second round on, what is sent is kept in the cache.
    void set_resending(bool on) { resending_ = on; }

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
        uint32_t base;       // of patched and delta pages: slot or kOwnBase
        PageKind kind;       // kInvalid: deferred
        bool staged;         // data is a copy of our own
        const uint8_t *base_data;
        uint64_t mask;       // of patched pages: blocks that differ from the base
        Hash hash;
    };
    // What a page might be coded against.
    struct Similar {
        Features features;
        bool shared = false; // it may itself stand for one of its features
        std::array<uint32_t, kFeatures> slots;
    };
    Encoder() = default;
    // Similar pages are not looked for: that costs more than their bytes.
    bool fast_link() const { return options_.adaptive && policy_.fast_link(); }
    void Decide(Page *page, void *block, std::vector<Deferred> *deferred);
    bool Wait(uint32_t owner, uint32_t channel);
    bool Resemble(Page *page, void *block, std::vector<Deferred> *deferred, Similar *similar);
    void CodeAgainstBase(Page *page, void *block, const Similar &similar);
    bool Stage(Page *page);
    bool Publish(Page *page, const Decision &decision);
    bool NextSlot(uint32_t *slot);
    size_t Describe(const char *id, size_t count, uint8_t *out);
    size_t DescribeRun(size_t first, size_t count, PageKind *kind) const;
    Status Payload(size_t count, EncodedPacket *packet, PacketHeader *header);
    Status Deltas(size_t count, EncodedPacket *packet, PacketHeader *header);
    void Remember(void *block, size_t count, bool last_round);
    void CountPages(size_t count, const EncodedPacket &packet, const PacketHeader &header);
    void Steer(const EncodedPacket &packet, uint64_t started_ns, uint64_t cpu_ns);

    Directory *directory_ = nullptr;
    StallWatch *stalls_ = nullptr;
    uint32_t member_ = 0;
    uint32_t channel_ = 0;
    EncoderOptions options_;
    Hasher hasher_;
    EncoderPeers peers_;
    bool resending_ = false;
    std::unique_ptr<Compressor> zstd_; // nullptr: raw only and no deltas
    LevelPolicy policy_;
    uint64_t ended_ns_ = 0; // when the packet before was made
    size_t streamed_ = 0, stream_size_ = 0; // of this packet: bytes in and out of zstd's stream
    ChannelState state_;
    uint32_t next_slot_ = 0; // in the chunk at hand
    uint32_t chunk_end_ = 0;
    uint32_t packet_number_ = 0; // of the last packet
    std::vector<Page> pages_;
    std::vector<uint8_t> staging_; // copies of pages: what is hashed is what travels
    size_t staged_ = 0, owns_ = 0; // pages in staging_ and own_
    std::vector<uint8_t> header_;
    std::vector<uint8_t> compressed_;
    std::vector<uint8_t> blocks_; // patched pages' blocks, in order
    std::vector<uint8_t> own_;    // last versions, as far as they serve as bases
    std::vector<uint8_t> prefix_, delta_pages_;
    std::vector<uint32_t> bases_; // slots in prefix_
    std::vector<iovec> iov_;
    std::vector<Hash> shared_;
};

} // namespace gang

#endif
