// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The bytes that cross the network, as docs/wire-format.md gives them: the
// packet header, the page descriptions, the greeting and the acknowledgement.

#ifndef GANG_WIRE_H
#define GANG_WIRE_H

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hash.h"
#include "layout.h"
#include "status.h"

namespace gang {

inline constexpr uint8_t kWireVersion = 1;
inline constexpr uint32_t kMultifdMagic = 0x11223344;
inline constexpr uint32_t kMultifdVersion = 1;
inline constexpr uint32_t kMultifdFlagGang = 3u << 1; // in multifd's compression field
inline constexpr size_t kMultifdHeaderSize = 12;      // magic, version, flags
inline constexpr size_t kPacketHeaderSize = 44;       // including those 12
inline constexpr size_t kMaxPacketPages = 1024;
inline constexpr size_t kMaxBlockId = 255;
// A description of one page is at most a tag, a run length, three 64-bit
// varints (page, slot, base) and a mask.
inline constexpr size_t kMaxOpSize = 1 + 2 + 10 + 10 + 10 + 8;
inline constexpr size_t kMaxDigestMore = 8; // the digest's second half; see Hasher
inline constexpr size_t kMaxMetadata = kMaxDigestMore + 1 + kMaxBlockId + kMaxPacketPages * kMaxOpSize;
static_assert(kMaxMetadata <= UINT16_MAX);

enum class PageKind : uint8_t {
    kInvalid = 0,
    kZero = 1,
    kLiteral = 2,
    kPublished = 3,
    kReference = 4,
    kPatched = 5,          // blocks that differ from a base page
    kPatchedPublished = 6,
    kDelta = 7,            // compressed with base pages as prefix
    kDeltaPublished = 8,
    kScattered = 9,        // in descriptions only: references with a slot each
};

constexpr bool IsPublished(PageKind k) {
    return k == PageKind::kPublished || k == PageKind::kPatchedPublished ||
           k == PageKind::kDeltaPublished;
}
// Travels whole, in the payload's first part.
constexpr bool IsFull(PageKind k) { return k == PageKind::kLiteral || k == PageKind::kPublished; }
constexpr bool IsPatched(PageKind k) {
    return k == PageKind::kPatched || k == PageKind::kPatchedPublished;
}
constexpr bool IsDelta(PageKind k) {
    return k == PageKind::kDelta || k == PageKind::kDeltaPublished;
}
// Is in the packet's digest.
constexpr bool IsHashed(PageKind k) { return k >= PageKind::kPublished; }

// The base of a patched or delta page: a slot, or its own content until now.
inline constexpr uint32_t kOwnBase = UINT32_MAX;
inline constexpr size_t kPatchBlock = 64; // bytes; a page's mask has a bit a block

enum class PayloadEncoding : uint8_t {
    kRaw = 0,
    kZstd = 1, // the channel's one continuous zstd frame, flushed
};

struct PacketHeader {
    uint32_t payload_size = 0;
    uint16_t metadata_size = 0;
    uint16_t pages = 0;
    PayloadEncoding encoding = PayloadEncoding::kRaw;
    uint32_t number = 0; // of this channel's packets, from 1
    uint32_t check = 0;  // of page descriptions and compressed payload
    uint64_t digest = 0; // over the hashes of all pages but zero and literal ones; 0: none
    uint32_t delta_size = 0; // of the payload's second part, the delta frame
};

void StorePacketHeader(const PacketHeader &h, uint8_t out[kPacketHeaderSize]);
Status ParsePacketHeader(const uint8_t in[kPacketHeaderSize], PacketHeader *h);

// The digest's second half, before the descriptions; `size` is Hasher::digest_more().
void StoreDigestMore(uint64_t digest, uint8_t *out, size_t size);
uint64_t ParseDigestMore(const uint8_t *in, size_t size);

struct Greeting {
    uint16_t version = kWireVersion;
    uint32_t page_size = kPageSize;
    HashKind hash_kind = HashKind::kXxh3_128;
    Uuid store{};
    Seed seed{};
    uint64_t slots = 0;
    uint32_t filled = 0; // of them, before this attempt; 0: none may be
};
inline constexpr size_t kGreetingSize = 56;
inline constexpr size_t kAckSize = 8;
// What some consecutive slots hold; QEMU takes messages of 512 bytes.
inline constexpr size_t kInventorySlots = 31;
constexpr size_t InventorySize(size_t count) {
    return 8 + 16 * count;
}
inline constexpr size_t kInventoryEndSize = 16;
inline constexpr size_t kMaxReturnMessage = InventorySize(kInventorySlots);
static_assert(kMaxReturnMessage <= 512);
enum class ReturnMessage : uint16_t {
    kInvalid = 0,
    kGreeting = 1,
    kAck = 2,
    kInventory = 3,
    kInventoryEnd = 4,
};

void StoreGreeting(const Greeting &g, uint8_t out[kGreetingSize]);
// kIncompatible with a message for the administrator when the other end
// speaks another version, page size or hash.
Status ParseGreeting(const uint8_t *in, size_t size, Greeting *g);
void StoreAck(uint16_t channel, uint32_t packet, uint8_t out[kAckSize]);
Status ParseAck(const uint8_t *in, size_t size, uint16_t *channel, uint32_t *packet);
// `count` (1 to kInventorySlots) hashes of the slots from `first` on; returns the size.
size_t StoreInventory(uint32_t first, const Hash *hashes, size_t count,
                      uint8_t out[kMaxReturnMessage]);
Status ParseInventory(const uint8_t *in, size_t size, uint32_t *first, Hash hashes[kInventorySlots],
                      size_t *count);
// `open`: the slots that the source may fill, those told apart; `told`: how many were.
void StoreInventoryEnd(uint32_t open, uint64_t told, uint8_t out[kInventoryEndSize]);
Status ParseInventoryEnd(const uint8_t *in, size_t size, uint32_t *open, uint64_t *told);
// Type of a return-path message; kInvalid when too short or unknown.
ReturnMessage ReturnMessageType(const uint8_t *in, size_t size);

inline uint64_t ZigZag(int64_t v) {
    return static_cast<uint64_t>(v) << 1 ^ static_cast<uint64_t>(v >> 63);
}
inline int64_t UnZigZag(uint64_t v) {
    return static_cast<int64_t>(v >> 1 ^ (~(v & 1) + 1));
}

// LEB128. Writer: out must have 10 bytes; returns the new end.
inline uint8_t *PutVarint(uint8_t *out, uint64_t v) {
    while (v >= 0x80) {
        *out++ = static_cast<uint8_t>(v | 0x80);
        v >>= 7;
    }
    *out++ = static_cast<uint8_t>(v);
    return out;
}
// Reader: false at the end of input, past 64 bits, or for a longer form than
// needed (every number has one encoding).
bool GetVarint(const uint8_t **in, const uint8_t *end, uint64_t *v);

// Predictions that both ends of a channel keep, so that a run that goes on
// where the last one ended costs one byte.
struct ChannelState {
    char block[kMaxBlockId + 1] = {}; // current RAMBlock id; empty: none yet
    uint64_t next_page = 0;
    uint64_t next_published = 0;
    uint64_t next_reference = 0;
    uint64_t next_base = 0;
};

} // namespace gang

#endif
