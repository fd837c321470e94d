// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The tests' shared pieces.

#include "testing.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <stdexcept>

namespace gang::test {

uint64_t TestSeed() {
    const char *text = getenv("GANG_SEED");
    uint64_t seed = text ? strtoull(text, nullptr, 0) : std::random_device{}();
    std::cout << "GANG_SEED=" << seed << std::endl;
    return seed;
}

void FillPage(uint8_t *page, uint64_t content) {
    memset(page, 0, kPageSize);
    if (content == 0) {
        return;
    }
    if (content >= kSimilar) {
        const uint64_t variant = (content - kSimilar) % 16;
        FillPage(page, 1000 + 2 * ((content - kSimilar) / 16) + 1);
        Rng rng(content);
        for (uint64_t i = 0; i < variant; i++) {
            page[(i * 4 + rng() % 4) * 64 + rng() % 64] ^= static_cast<uint8_t>(1 + rng() % 255);
        }
        return;
    }
    Rng rng(content);
    const size_t random = content % 2 ? kPageSize : kPageSize / 8;
    for (size_t i = 0; i < random; i += 8) {
        uint64_t v = rng();
        memcpy(page + i, &v, sizeof(v));
    }
}

bool IsZero(const void *page, size_t size) {
    const auto *p = static_cast<const uint8_t *>(page);
    return p[0] == 0 && memcmp(p, p + 1, size - 1) == 0;
}

Fd::~Fd() {
    if (fd_ >= 0) {
        close(fd_);
    }
}

GuestMemory::GuestMemory(size_t pages) : pages_(pages) {
    void *p = mmap(nullptr, bytes() + 2 * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || (pages && mprotect(static_cast<uint8_t *>(p) + kPageSize, bytes(),
                                              PROT_READ | PROT_WRITE))) {
        throw std::runtime_error("no guest memory");
    }
    mapping_ = static_cast<uint8_t *>(p);
    data_ = mapping_ + kPageSize;
}

GuestMemory::~GuestMemory() {
    munmap(mapping_, bytes() + 2 * kPageSize);
}

std::vector<uint64_t> GuestMemory::offsets() const {
    std::vector<uint64_t> all(pages_);
    for (size_t i = 0; i < pages_; i++) {
        all[i] = i * kPageSize;
    }
    return all;
}

namespace {
void Must(const Status &status) {
    if (!status.ok()) {
        throw std::runtime_error(status.message());
    }
}
} // namespace

Gang::Gang(uint64_t slots, uint64_t gang_pages, uint64_t mirror_pages, HashKind hash_kind) {
    Must(Store::Create(slots, hash_kind, store_fd.out()));
    Must(Store::Open(store_fd.get(), &store));
    DirectoryConfig config;
    config.store_uuid = store->uuid();
    config.seed = store->seed();
    config.hash_kind = hash_kind;
    config.gang_pages = gang_pages;
    config.store_slots = slots;
    config.mirror_pages = mirror_pages;
    Must(Directory::Create(config, directory_fd.out()));
    Must(Directory::Open(directory_fd.get(), &directory));
}

uint32_t Gang::AddMember() {
    uint32_t index;
    Must(directory->AddMember(static_cast<uint32_t>(getpid()), &index));
    return index;
}

Bytes Flatten(const EncodedPacket &packet) {
    Bytes bytes(packet.header, packet.header + packet.header_size);
    for (size_t i = 0; i < packet.payload_count; i++) {
        const auto *p = static_cast<const uint8_t *>(packet.payload[i].iov_base);
        bytes.insert(bytes.end(), p, p + packet.payload[i].iov_len);
    }
    return bytes;
}

void FixCheck(Bytes *packet, const Hasher &hasher) {
    if (packet->size() < kPacketHeaderSize) {
        return;
    }
    uint8_t *header = packet->data();
    const uint8_t *metadata = header + kPacketHeaderSize;
    const size_t rest = packet->size() - kPacketHeaderSize;
    const size_t metadata_size = std::min<size_t>(header[16] << 8 | header[17], rest);
    // All that is compressed: the whole payload, or the delta at its end.
    size_t compressed = rest - metadata_size;
    if (header[19] != static_cast<uint8_t>(PayloadEncoding::kZstd)) {
        size_t delta = 0;
        for (size_t i = 40; i < 44; i++) {
            delta = delta << 8 | header[i];
        }
        compressed = std::min(compressed, delta);
    }
    const uint32_t check = hasher.Check(metadata, metadata_size,
                                        packet->data() + packet->size() - compressed, compressed);
    for (size_t i = 0; i < 4; i++) {
        header[36 + i] = static_cast<uint8_t>(check >> (24 - 8 * i));
    }
}

Status Apply(Decoder *decoder, const Bytes &packet, const FindBlock &find, uint32_t *ack) {
    const Status cut{Code::kInvalid, "the stream ended"};
    // Each part in memory of its own size, so that sanitizers see overruns.
    size_t at = 0;
    auto take = [&](size_t n, Bytes *part) {
        if (packet.size() - at < n) {
            return false;
        }
        part->assign(packet.begin() + static_cast<ptrdiff_t>(at),
                     packet.begin() + static_cast<ptrdiff_t>(at + n));
        part->shrink_to_fit();
        at += n;
        return true;
    };
    Bytes header, metadata, payload;
    if (!take(kPacketHeaderSize, &header)) {
        return cut;
    }
    Status status = decoder->ParseHeader(header.data());
    if (!status.ok()) {
        return status;
    }
    if (!take(decoder->metadata_size(), &metadata)) {
        return cut;
    }
    status = decoder->ParseMetadata(metadata.data(), metadata.size());
    if (!status.ok()) {
        return status;
    }
    BlockAt block = find(decoder->block());
    if (!block.host) {
        return {Code::kInvalid, "no such RAMBlock"};
    }
    status = decoder->Bind({block.host, block.length, block.fd, block.offset});
    if (!status.ok()) {
        return status;
    }
    if (!take(decoder->payload_size(), &payload)) {
        return cut;
    }
    if (decoder->encoding() == PayloadEncoding::kRaw) {
        size_t from = 0;
        for (const iovec &part : decoder->RawIov()) {
            if (payload.size() - from < part.iov_len) {
                return {Code::kInvalid, "the payload is shorter than its pages"};
            }
            memcpy(part.iov_base, payload.data() + from, part.iov_len);
            from += part.iov_len;
        }
        if (from != payload.size()) {
            return {Code::kInvalid, "the payload is longer than its pages"};
        }
    } else {
        status = decoder->Inflate(payload.data());
        if (!status.ok()) {
            return status;
        }
    }
    status = decoder->Finish();
    if (!status.ok()) {
        return status;
    }
    for (const Decoder::Page &page : decoder->pages()) {
        if (page.kind == PageKind::kZero) {
            memset(block.host + page.number * kPageSize, 0, kPageSize);
        }
    }
    *ack = decoder->ack_number();
    return at == packet.size() ? Status::Ok() : Status{Code::kInvalid, "bytes after the packet"};
}

Status Apply(Decoder *decoder, const Bytes &packet, const GuestMemory &memory, uint32_t *ack) {
    return Apply(
        decoder, packet,
        [&](const std::string &) {
            return BlockAt{memory.data(), memory.bytes()};
        },
        ack);
}

} // namespace gang::test
