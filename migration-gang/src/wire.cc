// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Fixed-size parts of the wire format; see docs/wire-format.md.

#include "wire.h"

#include <endian.h>

#include <algorithm>
#include <string>

namespace gang {

namespace {

template <typename T> void PutBe(uint8_t *out, T v) {
    if constexpr (sizeof(T) == 2) {
        v = htobe16(v);
    } else if constexpr (sizeof(T) == 4) {
        v = htobe32(v);
    } else {
        v = htobe64(v);
    }
    memcpy(out, &v, sizeof(v));
}

template <typename T> T GetBe(const uint8_t *in) {
    T v;
    memcpy(&v, in, sizeof(v));
    if constexpr (sizeof(T) == 2) {
        return be16toh(v);
    } else if constexpr (sizeof(T) == 4) {
        return be32toh(v);
    } else {
        return be64toh(v);
    }
}

bool AllZero(const uint8_t *p, size_t n) {
    return std::all_of(p, p + n, [](uint8_t b) { return b == 0; });
}

} // namespace

void StorePacketHeader(const PacketHeader &h, uint8_t out[kPacketHeaderSize]) {
    memset(out, 0, kPacketHeaderSize);
    PutBe<uint32_t>(out, kMultifdMagic);
    PutBe<uint32_t>(out + 4, kMultifdVersion);
    PutBe<uint32_t>(out + 8, kMultifdFlagGang);
    PutBe<uint32_t>(out + 12, h.payload_size);
    PutBe<uint16_t>(out + 16, h.metadata_size);
    out[18] = kWireVersion;
    out[19] = static_cast<uint8_t>(h.encoding);
    PutBe<uint32_t>(out + 20, h.number);
    PutBe<uint64_t>(out + 24, h.digest);
    PutBe<uint16_t>(out + 32, h.pages);
    PutBe<uint32_t>(out + 36, h.check);
    PutBe<uint32_t>(out + 40, h.delta_size);
}

Status ParsePacketHeader(const uint8_t in[kPacketHeaderSize], PacketHeader *h) {
    if (GetBe<uint32_t>(in) != kMultifdMagic || GetBe<uint32_t>(in + 4) != kMultifdVersion ||
        GetBe<uint32_t>(in + 8) != kMultifdFlagGang) {
        return {Code::kInvalid, "not a gang packet"};
    }
    if (in[18] != kWireVersion) {
        return {Code::kIncompatible, "gang packet of format version " + std::to_string(in[18]) +
                                         ", this QEMU knows " + std::to_string(kWireVersion)};
    }
    h->payload_size = GetBe<uint32_t>(in + 12);
    h->metadata_size = GetBe<uint16_t>(in + 16);
    h->number = GetBe<uint32_t>(in + 20);
    h->digest = GetBe<uint64_t>(in + 24);
    h->pages = GetBe<uint16_t>(in + 32);
    h->check = GetBe<uint32_t>(in + 36);
    h->delta_size = GetBe<uint32_t>(in + 40);
    if (in[19] > static_cast<uint8_t>(PayloadEncoding::kZstd)) {
        return {Code::kInvalid, "gang packet with unknown payload encoding"};
    }
    h->encoding = static_cast<PayloadEncoding>(in[19]);
    if (!AllZero(in + 34, 2)) {
        return {Code::kInvalid, "gang packet with reserved bytes that are not zero"};
    }
    if (h->number == 0) {
        return {Code::kInvalid, "gang packet without a number"};
    }
    if (h->pages == 0 || h->pages > kMaxPacketPages) {
        return {Code::kInvalid, "gang packet with " + std::to_string(h->pages) + " pages"};
    }
    if (h->metadata_size < 2 || h->metadata_size > kMaxMetadata) {
        return {Code::kInvalid, "gang packet with " + std::to_string(h->metadata_size) +
                                    " bytes of page descriptions"};
    }
    // zstd's worst case for incompressible input is far below this.
    if (h->payload_size > uint32_t{h->pages} * (kPageSize + kPageSize / 8) + 1024) {
        return {Code::kInvalid, "gang packet with a payload of " +
                                    std::to_string(h->payload_size) + " bytes"};
    }
    if (h->delta_size > h->payload_size) {
        return {Code::kInvalid, "gang packet with a delta larger than its payload"};
    }
    return Status::Ok();
}

void StoreDigestMore(uint64_t digest, uint8_t *out, size_t size) {
    if (size) {
        PutBe<uint64_t>(out, digest);
    }
}

uint64_t ParseDigestMore(const uint8_t *in, size_t size) {
    return size ? GetBe<uint64_t>(in) : 0;
}

void StoreGreeting(const Greeting &g, uint8_t out[kGreetingSize]) {
    memset(out, 0, kGreetingSize);
    PutBe<uint16_t>(out, static_cast<uint16_t>(ReturnMessage::kGreeting));
    PutBe<uint16_t>(out + 2, g.version);
    PutBe<uint32_t>(out + 4, g.page_size);
    PutBe<uint32_t>(out + 8, static_cast<uint32_t>(g.hash_kind));
    PutBe<uint32_t>(out + 12, g.filled);
    memcpy(out + 16, g.store.data(), g.store.size());
    memcpy(out + 32, g.seed.data(), g.seed.size());
    PutBe<uint64_t>(out + 48, g.slots);
}

Status ParseGreeting(const uint8_t *in, size_t size, Greeting *g) {
    if (size < 4 || ReturnMessageType(in, size) != ReturnMessage::kGreeting) {
        return {Code::kInvalid, "malformed greeting from the destination"};
    }
    g->version = GetBe<uint16_t>(in + 2);
    if (g->version != kWireVersion) {
        return {Code::kIncompatible,
                "the destination speaks gang protocol version " + std::to_string(g->version) +
                    ", this QEMU version " + std::to_string(kWireVersion) +
                    ": use the same QEMU build on both hosts, or migrate without gang"};
    }
    if (size != kGreetingSize) {
        return {Code::kInvalid, "greeting of " + std::to_string(size) + " bytes, expected " +
                                    std::to_string(kGreetingSize)};
    }
    g->page_size = GetBe<uint32_t>(in + 4);
    uint32_t hash_kind = GetBe<uint32_t>(in + 8);
    g->filled = GetBe<uint32_t>(in + 12);
    memcpy(g->store.data(), in + 16, g->store.size());
    memcpy(g->seed.data(), in + 32, g->seed.size());
    g->slots = GetBe<uint64_t>(in + 48);
    if (g->page_size != kPageSize) {
        return {Code::kIncompatible, "the destination's gang store has pages of " +
                                         std::to_string(g->page_size) + " bytes, here they have " +
                                         std::to_string(kPageSize)};
    }
    if (!IsKnown(static_cast<HashKind>(hash_kind))) {
        return {Code::kIncompatible,
                "the destination's gang store uses hash kind " + std::to_string(hash_kind) +
                    ", which this QEMU does not know"};
    }
    g->hash_kind = static_cast<HashKind>(hash_kind);
    if (g->filled > g->slots || g->slots > UINT32_MAX) {
        return {Code::kInvalid, "malformed greeting from the destination"};
    }
    return Status::Ok();
}

void StoreAck(uint16_t channel, uint32_t packet, uint8_t out[kAckSize]) {
    PutBe<uint16_t>(out, static_cast<uint16_t>(ReturnMessage::kAck));
    PutBe<uint16_t>(out + 2, channel);
    PutBe<uint32_t>(out + 4, packet);
}

Status ParseAck(const uint8_t *in, size_t size, uint16_t *channel, uint32_t *packet) {
    if (size != kAckSize || ReturnMessageType(in, size) != ReturnMessage::kAck) {
        return {Code::kInvalid, "malformed acknowledgement from the destination"};
    }
    *channel = GetBe<uint16_t>(in + 2);
    *packet = GetBe<uint32_t>(in + 4);
    return Status::Ok();
}

size_t StoreInventory(uint32_t first, const Hash *hashes, size_t count,
                      uint8_t out[kMaxReturnMessage]) {
    PutBe<uint16_t>(out, static_cast<uint16_t>(ReturnMessage::kInventory));
    PutBe<uint16_t>(out + 2, static_cast<uint16_t>(count));
    PutBe<uint32_t>(out + 4, first);
    for (size_t i = 0; i < count; i++) {
        PutBe<uint64_t>(out + InventorySize(i), hashes[i].lo);
        PutBe<uint64_t>(out + InventorySize(i) + 8, hashes[i].hi);
    }
    return InventorySize(count);
}

Status ParseInventory(const uint8_t *in, size_t size, uint32_t *first, Hash hashes[kInventorySlots],
                      size_t *count) {
    if (size < InventorySize(1) || ReturnMessageType(in, size) != ReturnMessage::kInventory) {
        return {Code::kInvalid, "malformed inventory from the destination"};
    }
    *count = GetBe<uint16_t>(in + 2);
    *first = GetBe<uint32_t>(in + 4);
    if (*count == 0 || *count > kInventorySlots || size != InventorySize(*count)) {
        return {Code::kInvalid, "inventory of " + std::to_string(*count) + " slots in " +
                                    std::to_string(size) + " bytes from the destination"};
    }
    for (size_t i = 0; i < *count; i++) {
        hashes[i] = {GetBe<uint64_t>(in + InventorySize(i)),
                     GetBe<uint64_t>(in + InventorySize(i) + 8)};
        // In shared memory, 0 would be no hash.
        if (hashes[i].lo == 0 || hashes[i].hi == 0) {
            return {Code::kInvalid, "inventory with a hash that is none from the destination"};
        }
    }
    return Status::Ok();
}

void StoreInventoryEnd(uint32_t open, uint64_t told, uint8_t out[kInventoryEndSize]) {
    PutBe<uint16_t>(out, static_cast<uint16_t>(ReturnMessage::kInventoryEnd));
    PutBe<uint16_t>(out + 2, 0);
    PutBe<uint32_t>(out + 4, open);
    PutBe<uint64_t>(out + 8, told);
}

Status ParseInventoryEnd(const uint8_t *in, size_t size, uint32_t *open, uint64_t *told) {
    if (size != kInventoryEndSize || ReturnMessageType(in, size) != ReturnMessage::kInventoryEnd ||
        !AllZero(in + 2, 2)) {
        return {Code::kInvalid, "malformed end of the inventory from the destination"};
    }
    *open = GetBe<uint32_t>(in + 4);
    *told = GetBe<uint64_t>(in + 8);
    return Status::Ok();
}

ReturnMessage ReturnMessageType(const uint8_t *in, size_t size) {
    if (size < 2) {
        return ReturnMessage::kInvalid;
    }
    switch (GetBe<uint16_t>(in)) {
    case 1:
        return ReturnMessage::kGreeting;
    case 2:
        return ReturnMessage::kAck;
    case 3:
        return ReturnMessage::kInventory;
    case 4:
        return ReturnMessage::kInventoryEnd;
    default:
        return ReturnMessage::kInvalid;
    }
}

bool GetVarint(const uint8_t **in, const uint8_t *end, uint64_t *v) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && *in < end; shift += 7) {
        uint8_t byte = *(*in)++;
        if (shift == 63 && byte > 1) {
            return false;
        }
        value |= uint64_t{byte & 0x7fu} << shift;
        if (!(byte & 0x80)) {
            *v = value;
            return byte != 0 || shift == 0;
        }
    }
    return false;
}

} // namespace gang
