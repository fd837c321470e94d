// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// docs/wire-format.md, section "Packet", sentence by sentence.

#include "reference_decoder.h"

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>

#include "reference_sha256.h"

namespace gang::reference {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHeader = 44;
constexpr size_t kBlock = 64;

void Require(bool condition, const char *rule) {
    if (!condition) {
        throw Violation(rule);
    }
}

uint64_t BigEndian(const Bytes &bytes, size_t at, size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        value = value * 256 + bytes.at(at + i);
    }
    return value;
}

void LittleEndian(uint64_t value, Bytes *out) {
    for (int i = 0; i < 8; i++) {
        out->push_back(static_cast<uint8_t>(value >> (8 * i)));
    }
}

class Reader {
  public:
    explicit Reader(const Bytes &bytes) : bytes_(bytes) {}
    bool AtEnd() const { return at_ == bytes_.size(); }
    uint8_t Byte() {
        Require(at_ < bytes_.size(), "the runs fill the metadata exactly");
        return bytes_[at_++];
    }
    uint64_t Varint() {
        unsigned __int128 value = 0;
        for (int i = 0;; i++) {
            Require(i < 10, "varints have at most 64 bits");
            uint8_t byte = Byte();
            value |= static_cast<unsigned __int128>(byte & 127) << (7 * i);
            if (byte < 128) {
                Require(byte != 0 || i == 0, "varints are in their shortest form");
                break;
            }
        }
        Require(value >> 64 == 0, "varints have at most 64 bits");
        return static_cast<uint64_t>(value);
    }
    // 0, -1, 1, -2 ... are 0, 1, 2, 3 ...; sums are modulo 2^64.
    uint64_t Predicted(uint64_t prediction) {
        uint64_t zigzag = Varint();
        return zigzag % 2 == 0 ? prediction + zigzag / 2 : prediction - (zigzag / 2 + 1);
    }

  private:
    const Bytes &bytes_;
    size_t at_ = 0;
};

} // namespace

ReferenceStore::ReferenceStore(uint64_t count, const uint8_t seed[16], uint32_t hash_kind)
    : slot_count(count), kind(hash_kind), key(seed, seed + 16), secret(192) {
    Require(kind == 1 || kind == 2, "hash kind");
    XXH3_generateSecret(secret.data(), secret.size(), seed, 16);
}

Hash128 ReferenceStore::HashPage(const Bytes &page) const {
    if (kind == 2) {
        const Bytes tag = HmacSha256(key, page);
        Hash128 hash;
        for (size_t i = 8; i-- > 0;) {
            hash.low = hash.low << 8 | tag[i];
            hash.high = hash.high << 8 | tag[8 + i];
        }
        return {hash.low == 0 ? 1 : hash.low, hash.high == 0 ? 1 : hash.high};
    }
    XXH128_hash_t h =
        XXH3_128bits_withSecret(page.data(), page.size(), secret.data(), secret.size());
    return {h.low64 == 0 ? 1 : h.low64, h.high64 == 0 ? 1 : h.high64};
}

Hash128 ReferenceStore::Digest(const std::vector<Hash128> &hashes) const {
    if (hashes.empty()) {
        return {};
    }
    Bytes bytes;
    for (const Hash128 &hash : hashes) {
        LittleEndian(hash.low, &bytes);
        LittleEndian(hash.high, &bytes);
    }
    if (kind == 2) {
        return HashPage(bytes);
    }
    return {XXH3_64bits_withSecret(bytes.data(), bytes.size(), secret.data(), secret.size()), 0};
}

uint32_t ReferenceStore::Check(const Bytes &metadata, const Bytes &compressed) const {
    Bytes both;
    for (const Bytes *part : {&metadata, &compressed}) {
        LittleEndian(
            XXH3_64bits_withSecret(part->data(), part->size(), secret.data(), secret.size()),
            &both);
    }
    return static_cast<uint32_t>(
        XXH3_64bits_withSecret(both.data(), both.size(), secret.data(), secret.size()));
}

struct ReferenceDecoder::Inflater {
    ZSTD_DCtx *context = ZSTD_createDCtx();
    Inflater() { ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, 25); }
    ~Inflater() { ZSTD_freeDCtx(context); }
};

ReferenceDecoder::ReferenceDecoder(ReferenceStore *store, Ram *ram)
    : store_(store), ram_(ram), inflater_(std::make_unique<Inflater>()) {}

ReferenceDecoder::~ReferenceDecoder() = default;

std::vector<ReferenceDecoder::Page> ReferenceDecoder::Descriptions(const Bytes &metadata,
                                                                   size_t pages) {
    Reader in(metadata);
    size_t id_length = in.Byte();
    if (id_length > 0) {
        block_.clear();
        for (size_t i = 0; i < id_length; i++) {
            uint8_t c = in.Byte();
            Require(c != 0, "a RAMBlock id has no NUL");
            block_.push_back(static_cast<char>(c));
        }
        named_ = true;
        next_page_ = 0;
    }
    Require(named_, "a channel's first packet names its RAMBlock");
    Require(ram_->count(block_) == 1, "the RAMBlock exists");
    const uint64_t block_pages = ram_->at(block_).size() / kPage;

    auto slots_exist = [&](uint64_t slot, uint64_t count) {
        Require(slot < store_->slot_count && count <= store_->slot_count - slot,
                "slots are below the greeting's number");
    };
    std::vector<Page> described;
    while (!in.AtEnd()) {
        uint8_t tag = in.Byte();
        int kind = tag % 16;
        Require(kind >= kZero && kind <= kScattered, "kinds are 1 to 9");
        uint64_t run = tag / 16 + 1u;
        if (run == 16) {
            uint64_t more = in.Varint();
            Require(more <= 1024, "the runs describe exactly `pages` pages");
            run = 16 + more;
        }
        Require(run <= pages - described.size(), "the runs describe exactly `pages` pages");
        uint64_t page = in.Predicted(next_page_);
        Require(page < block_pages && run <= block_pages - page, "pages are inside the RAMBlock");
        next_page_ = page + run;
        const bool published =
            kind == kPublished || kind == kPatchedPublished || kind == kDeltaPublished;
        uint64_t slot = 0;
        if (published || kind == kReferenced) {
            uint64_t &next = published ? next_published_slot_ : next_referenced_slot_;
            slot = in.Predicted(next);
            slots_exist(slot, run);
            next = slot + run;
        }
        for (uint64_t i = 0; i < run; i++) {
            Page one = {static_cast<Kind>(kind), page + i, slot + i, false, 0, {}};
            if (kind == kScattered) {
                one.kind = kReferenced;
                one.slot = in.Predicted(next_referenced_slot_);
                slots_exist(one.slot, 1);
                next_referenced_slot_ = one.slot + 1;
            }
            if (kind >= kPatched && kind <= kDeltaPublished) {
                uint64_t base = in.Varint();
                one.own = base == 0;
                if (base > 0) {
                    uint64_t zigzag = base - 1;
                    one.base = zigzag % 2 == 0 ? next_base_slot_ + zigzag / 2
                                               : next_base_slot_ - (zigzag / 2 + 1);
                    slots_exist(one.base, 1);
                    next_base_slot_ = one.base + 1;
                }
            }
            if (kind == kPatched || kind == kPatchedPublished) {
                for (int byte = 0; byte < 8; byte++) {
                    uint8_t bits = in.Byte();
                    for (int bit = 0; bit < 8; bit++) {
                        one.mask.push_back(bits >> bit & 1);
                    }
                }
            }
            described.push_back(one);
        }
    }
    Require(described.size() == pages, "the runs describe exactly `pages` pages");
    return described;
}

Bytes ReferenceDecoder::Stream(uint8_t encoding, const Bytes &stream, size_t size) {
    if (size == 0) {
        Require(stream.empty(), "nothing to carry: the stream's part is empty");
        return {};
    }
    if (encoding == 0) {
        Require(stream.size() == size, "raw: as they are");
        return stream;
    }
    Bytes plain(size + 1); // one more, to see when there is too much
    ZSTD_inBuffer in = {stream.data(), stream.size(), 0};
    ZSTD_outBuffer out = {plain.data(), plain.size(), 0};
    size_t hint = 1;
    for (;;) {
        size_t in_before = in.pos, out_before = out.pos;
        size_t now = ZSTD_decompressStream(inflater_->context, &out, &in);
        Require(!ZSTD_isError(now), "the payload is the next part of the zstd stream");
        if (in.pos == in_before && out.pos == out_before) {
            break;
        }
        hint = now;
    }
    Require(hint != 0, "a packet does not end at the end of a frame");
    Require(in.pos == in.size && out.pos == size, "zstd: exactly the packet's bytes");
    plain.resize(size);
    return plain;
}

Bytes ReferenceDecoder::Delta(const Bytes &frame, const Bytes &prefix, size_t size) {
    Bytes plain(size);
    Require(ZSTD_findFrameCompressedSize(frame.data(), frame.size()) == frame.size(),
            "the delta is one frame");
    ZSTD_DCtx *context = ZSTD_createDCtx();
    ZSTD_DCtx_refPrefix(context, prefix.data(), prefix.size());
    size_t n = ZSTD_decompressDCtx(context, plain.data(), plain.size(), frame.data(), frame.size());
    ZSTD_freeDCtx(context);
    Require(!ZSTD_isError(n) && n == size, "the delta frame holds exactly the delta pages");
    return plain;
}

Bytes ReferenceDecoder::FromStore(uint64_t slot, Hash128 *hash) const {
    auto found = store_->slots.find(slot);
    Require(found != store_->slots.end(), "a referenced slot is filled");
    *hash = store_->HashPage(found->second.page);
    Require(*hash == found->second.hash, "the slot hashes to what it was stored with");
    return found->second.page;
}

uint32_t ReferenceDecoder::Apply(const Bytes &packet) {
    Require(packet.size() >= kHeader, "a packet has a header");
    Require(BigEndian(packet, 0, 4) == 0x11223344, "magic");
    Require(BigEndian(packet, 4, 4) == 1, "multifd's version");
    Require(BigEndian(packet, 8, 4) == 6, "flags");
    const uint64_t payload_size = BigEndian(packet, 12, 4);
    const uint64_t metadata_size = BigEndian(packet, 16, 2);
    const uint8_t version = packet[18], encoding = packet[19];
    const uint32_t number = static_cast<uint32_t>(BigEndian(packet, 20, 4));
    Hash128 digest = {BigEndian(packet, 24, 8), 0};
    const uint64_t pages = BigEndian(packet, 32, 2);
    const uint64_t delta_size = BigEndian(packet, 40, 4);
    Require(metadata_size >= 2, "metadata size is at least 2");
    Require(version == 1, "format version");
    Require(encoding <= 1, "payload encoding is 0 or 1");
    Require(pages >= 1 && pages <= 1024, "1 to 1024 pages");
    Require(payload_size <= 4608 * pages + 1024, "payload size");
    Require(BigEndian(packet, 34, 2) == 0, "two bytes of the header are 0");
    Require(delta_size <= payload_size, "the delta is a part of the payload");
    Require(packet.size() == kHeader + metadata_size + payload_size,
            "header, metadata and payload have their sizes");

    auto metadata = packet.begin() + kHeader;
    auto payload = metadata + static_cast<ptrdiff_t>(metadata_size);
    auto delta = packet.end() - static_cast<ptrdiff_t>(delta_size);
    Require(store_->Check(Bytes(metadata, payload),
                          encoding == 1 ? Bytes(payload, packet.end())
                                        : Bytes(delta, packet.end())) == BigEndian(packet, 36, 4),
            "check");
    if (store_->kind == 2) {
        Require(metadata_size >= 8, "hash kind 2: the digest's second half");
        digest.high = BigEndian(packet, kHeader, 8);
        metadata += 8;
    }
    const std::vector<Page> described = Descriptions(Bytes(metadata, payload), pages);
    size_t stream_size = 0, delta_pages = 0;
    for (const Page &page : described) {
        if (page.kind == kLiteral || page.kind == kPublished) {
            stream_size += kPage;
        }
        stream_size +=
            kBlock * static_cast<size_t>(std::count(page.mask.begin(), page.mask.end(), true));
        delta_pages += page.kind == kDelta || page.kind == kDeltaPublished;
    }
    Require((delta_pages == 0) == (delta_size == 0), "no delta page: delta size 0");
    Require(number == ++last_number_, "number of the packet in its channel, from 1");

    Bytes &ram = ram_->at(block_);
    auto at = [&](const Page &page) {
        return ram.begin() + static_cast<ptrdiff_t>(page.number * kPage);
    };
    Hash128 ignored;
    std::vector<Bytes> made(described.size()); // all but zero pages

    // 1. Literal and published pages are made of their bytes.
    const Bytes plain = Stream(encoding, Bytes(payload, delta), stream_size);
    auto next = plain.begin();
    std::map<size_t, Bytes> blocks; // of the patched pages
    for (size_t i = 0; i < described.size(); i++) {
        const Page &page = described[i];
        if (page.kind == kLiteral || page.kind == kPublished) {
            made[i] = Bytes(next, next + kPage);
            next += kPage;
        }
        auto size = static_cast<ptrdiff_t>(kBlock) *
                    std::count(page.mask.begin(), page.mask.end(), true);
        blocks[i] = Bytes(next, next + (page.mask.empty() ? 0 : size));
        next += page.mask.empty() ? 0 : size;
    }

    // 2. Patched pages are made of their base and their blocks.
    for (size_t i = 0; i < described.size(); i++) {
        const Page &page = described[i];
        if (page.mask.empty()) {
            continue;
        }
        made[i] = page.own ? Bytes(at(page), at(page) + kPage) : FromStore(page.base, &ignored);
        auto block = blocks[i].begin();
        for (size_t b = 0; b < page.mask.size(); b++) {
            if (page.mask[b]) {
                std::copy_n(block, kBlock, made[i].begin() + static_cast<ptrdiff_t>(b * kBlock));
                block += kBlock;
            }
        }
    }

    // 3. Delta pages: the bases, each slot once, make the prefix.
    if (delta_pages > 0) {
        Bytes prefix;
        std::vector<uint64_t> seen;
        for (const Page &page : described) {
            if (page.kind != kDelta && page.kind != kDeltaPublished) {
                continue;
            }
            Bytes base;
            if (page.own) {
                base = Bytes(at(page), at(page) + kPage);
            } else if (std::find(seen.begin(), seen.end(), page.base) == seen.end()) {
                seen.push_back(page.base);
                base = FromStore(page.base, &ignored);
            }
            prefix.insert(prefix.end(), base.begin(), base.end());
        }
        const Bytes deltas = Delta(Bytes(delta, packet.end()), prefix, delta_pages * kPage);
        auto from = deltas.begin();
        for (size_t i = 0; i < described.size(); i++) {
            if (described[i].kind == kDelta || described[i].kind == kDeltaPublished) {
                made[i] = Bytes(from, from + kPage);
                from += kPage;
            }
        }
    }

    // 4. First each published page is copied to its slot.  Then each referenced
    // page is copied from its slot.
    std::vector<Hash128> hash_of(described.size());
    for (size_t i = 0; i < described.size(); i++) {
        const Page &page = described[i];
        if (page.kind == kPublished || page.kind == kPatchedPublished ||
            page.kind == kDeltaPublished) {
            Require(store_->slots.count(page.slot) == 0, "a published page's slot is empty");
            hash_of[i] = store_->HashPage(made[i]);
            store_->slots[page.slot] = {made[i], hash_of[i]};
        }
    }
    for (size_t i = 0; i < described.size(); i++) {
        const Page &page = described[i];
        if (page.kind == kReferenced) {
            made[i] = FromStore(page.slot, &hash_of[i]);
        } else if (page.kind == kPatched || page.kind == kDelta) {
            hash_of[i] = store_->HashPage(made[i]);
        }
    }
    std::vector<Hash128> hashes; // in the order of the descriptions
    for (size_t i = 0; i < described.size(); i++) {
        if (described[i].kind != kZero && described[i].kind != kLiteral) {
            hashes.push_back(hash_of[i]);
        }
    }

    // 5. Digest.
    Require(store_->Digest(hashes) == digest, "digest");

    // 6. Guest memory gets what was made, then the zeros.
    for (size_t i = 0; i < described.size(); i++) {
        if (described[i].kind != kZero) {
            std::copy_n(made[i].begin(), kPage, at(described[i]));
        }
    }
    for (const Page &page : described) {
        if (page.kind == kZero) {
            std::fill_n(at(page), kPage, 0);
        }
    }
    return number;
}

} // namespace gang::reference
