// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The destination's side of one multifd channel.  Nothing that comes from the
// wire is used before it has been checked: a hostile stream makes its own
// migration fail and nothing more.

#ifndef GANG_DECODER_H
#define GANG_DECODER_H

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "status.h"
#include "store.h"
#include "wire.h"

struct ZSTD_DCtx_s;

namespace gang {

// Not thread-safe: one channel thread.  A packet is taken in five steps, in
// this order; after any error the channel is of no use any more.
//
//   ParseHeader    the header          -> metadata_size(), payload_size()
//   ParseMetadata  the descriptions    -> block(), pages()
//   Bind           where block() lies  (every page is now known to be inside)
//   RawIov + read, or Inflate          (into memory of our own)
//   Finish         store, references, digest, guest memory -> ack_number()
//
// Guest memory is written last: only pages that have been checked get there.
class Decoder {
  public:
    // A RAMBlock's memory.
    struct Memory {
        uint8_t *host;       // as this process has it mapped
        uint64_t length;     // bytes in use
        int fd = -1;         // the file that is mapped shared there, or none: runs of
        uint64_t offset = 0; // pages go into it, from this offset on
    };

    struct Page {
        uint64_t number; // offset / kPageSize
        uint32_t slot; // of published and referenced pages
        PageKind kind; // never kScattered: that is a way to describe references
        uint32_t base; // of patched and delta pages: slot or kOwnBase
        uint64_t mask; // of patched pages: blocks that follow
    };

    static Status Create(Store *store, std::unique_ptr<Decoder> *out);
    ~Decoder();

    Status ParseHeader(const uint8_t header[kPacketHeaderSize]);
    size_t metadata_size() const { return header_.metadata_size; }
    size_t payload_size() const { return header_.payload_size; }
    size_t page_count() const { return header_.pages; }
    PayloadEncoding encoding() const { return header_.encoding; }

    Status ParseMetadata(const uint8_t *metadata, size_t size);
    // Id of the RAMBlock the pages are in.
    const char *block() const { return state_.block; }
    // In the packet's order.  Zero pages are the caller's to clear, after
    // Finish.
    const std::vector<Page> &pages() const { return pages_; }

    Status Bind(const Memory &memory);

    // Raw payloads: where its bytes go.
    const std::vector<iovec> &RawIov();
    // zstd payloads: payload_size() bytes at `payload`.
    Status Inflate(const uint8_t *payload);

    // Makes patched and delta pages of their bases, copies published pages to the
    // store and referenced ones out of it, and checks all against the digest.
    Status Finish();
    // To acknowledge.
    uint32_t ack_number() const { return header_.number; }

  private:
    Decoder() = default;
    Status CheckPayload(const uint8_t *compressed, size_t size) const;
    Status ParseBase(const uint8_t **in, const uint8_t *end, Page *page);
    Status Stream(const uint8_t *payload, size_t size);
    Status Patch();
    Status Delta();
    Status Publish();
    void Write();
    void WriteRun(const Page &first, size_t count);
    // Where a page of pages_ is made, and where it is in the guest.
    uint8_t *PageAt(const Page &p) {
        return made_.data() + static_cast<size_t>(&p - pages_.data()) * kPageSize;
    }
    uint8_t *GuestAt(const Page &p) const { return memory_.host + p.number * kPageSize; }

    struct DctxDeleter {
        void operator()(ZSTD_DCtx_s *d) const;
    };

    Store *store_ = nullptr;
    std::unique_ptr<ZSTD_DCtx_s, DctxDeleter> zstd_, delta_zstd_;
    ChannelState state_;
    PacketHeader header_;
    uint32_t last_number_ = 0;
    uint64_t digest_more_ = 0; // of the packet at hand
    size_t stream_size_ = 0;  // bytes of full pages and patched blocks
    size_t block_size_ = 0;   // those of patched blocks
    size_t delta_pages_ = 0;
    size_t hashed_pages_ = 0; // that the digest covers
    const uint8_t *delta_ = nullptr;
    Memory memory_{};
    std::vector<uint8_t> metadata_;
    std::vector<Page> pages_;
    std::vector<uint8_t> made_; // a page each of pages_, in order; stays in the cache
    std::vector<iovec> iov_;
    std::vector<Hash> shared_;    // of hashed pages, in order
    std::vector<uint8_t> blocks_; // patched pages' blocks, in order
    std::vector<uint8_t> frame_;  // the delta frame of a raw packet
    std::vector<uint8_t> prefix_, plain_;
    std::vector<uint32_t> bases_; // slots in prefix_
};

} // namespace gang

#endif
