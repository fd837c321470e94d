// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The encoder's packets: page descriptions and payload, as docs/wire-format.md
// has them.

#include <algorithm>
#include <cstring>

#include "encoder.h"

namespace gang {

namespace {

// Neighbouring slots are worth a run of their own from so many pages on; shorter
// ones get a slot each.
constexpr size_t kSlotRun = 3;

uint8_t *PutRun(uint8_t *out, PageKind kind, size_t run) {
    const uint8_t tag = static_cast<uint8_t>(kind);
    if (run <= 15) {
        *out++ = static_cast<uint8_t>(tag | (run - 1) << 4);
        return out;
    }
    *out++ = static_cast<uint8_t>(tag | 15 << 4);
    return PutVarint(out, run - 16);
}

// Prediction, then zigzag of what it missed by.
uint8_t *PutGuess(uint8_t *out, uint64_t value, uint64_t guess) {
    return PutVarint(out, ZigZag(static_cast<int64_t>(value - guess)));
}

} // namespace

// How many pages from `first` on one run describes, and as what kind.
size_t Encoder::DescribeRun(size_t first, size_t count, PageKind *kind) const {
    const PageKind k = *kind = pages_[first].kind;
    auto neighbours = [&](size_t i, bool slots) {
        return i < count && pages_[i].kind == k && pages_[i].number == pages_[i - 1].number + 1 &&
               (!slots || pages_[i].slot == pages_[i - 1].slot + 1);
    };
    auto run_from = [&](size_t i, bool slots) {
        size_t n = 1;
        while (neighbours(i + n, slots)) {
            n++;
        }
        return n;
    };
    if (k != PageKind::kReference) {
        return run_from(first, IsPublished(k));
    }
    size_t together = run_from(first, true);
    if (together >= kSlotRun || !neighbours(first + together, false)) {
        return together;
    }
    *kind = PageKind::kScattered;
    size_t run = together;
    while (neighbours(first + run, false)) {
        together = run_from(first + run, true);
        if (together >= kSlotRun) {
            break;
        }
        run += together;
    }
    return run;
}

size_t Encoder::Describe(const char *id, size_t count, uint8_t *out) {
    uint8_t *p = out;
    if (strcmp(state_.block, id) == 0) {
        *p++ = 0;
    } else {
        size_t n = strnlen(id, kMaxBlockId);
        *p++ = static_cast<uint8_t>(n);
        memcpy(p, id, n);
        p += n;
        memcpy(state_.block, id, n);
        state_.block[n] = 0;
        state_.next_page = 0;
    }
    for (size_t i = 0; i < count;) {
        const Page &first = pages_[i];
        PageKind kind;
        const size_t run = DescribeRun(i, count, &kind);
        p = PutRun(p, kind, run);
        p = PutGuess(p, first.number, state_.next_page);
        state_.next_page = first.number + run;
        if (IsPublished(kind) || kind == PageKind::kReference) {
            uint64_t *next = IsPublished(kind) ? &state_.next_published : &state_.next_reference;
            p = PutGuess(p, first.slot, *next);
            *next = uint64_t{first.slot} + run;
        }
        for (size_t k = i; k < i + run; k++) {
            const Page &page = pages_[k];
            if (kind == PageKind::kScattered) {
                p = PutGuess(p, page.slot, state_.next_reference);
                state_.next_reference = uint64_t{page.slot} + 1;
            } else if (IsPatched(kind) || IsDelta(kind)) {
                if (page.base == kOwnBase) {
                    *p++ = 0;
                } else {
                    p = PutVarint(p, 1 + ZigZag(static_cast<int64_t>(page.base - state_.next_base)));
                    state_.next_base = uint64_t{page.base} + 1;
                }
                if (IsPatched(kind)) {
                    for (int byte = 0; byte < 8; byte++) {
                        *p++ = static_cast<uint8_t>(page.mask >> (8 * byte));
                    }
                }
            }
        }
        i += run;
    }
    return static_cast<size_t>(p - out);
}

Status Encoder::Payload(size_t count, EncodedPacket *packet, PacketHeader *header) {
    uint8_t *blocks = blocks_.data();
    bool deltas = false;
    for (size_t i = 0; i < count; i++) {
        const Page &page = pages_[i];
        if (IsFull(page.kind)) {
            iov_.push_back({const_cast<uint8_t *>(page.data), kPageSize});
            streamed_ += kPageSize;
        } else if (IsPatched(page.kind) && page.mask != 0) {
            uint8_t *start = blocks;
            for (size_t b = 0; b < kPageSize / kPatchBlock; b++) {
                if (page.mask >> b & 1) {
                    memcpy(blocks, page.data + b * kPatchBlock, kPatchBlock);
                    blocks += kPatchBlock;
                }
            }
            iov_.push_back({start, static_cast<size_t>(blocks - start)});
            streamed_ += static_cast<size_t>(blocks - start);
        }
        deltas |= IsDelta(page.kind);
    }
    packet->payload_size = streamed_;
    if (options_.encoding == PayloadEncoding::kZstd && !iov_.empty()) {
        Status status = zstd_->Stream(iov_.data(), iov_.size(), compressed_.data(),
                                      compressed_.size(), &stream_size_);
        if (!status.ok()) {
            return status;
        }
        packet->payload_size = stream_size_;
        iov_.assign(1, {compressed_.data(), stream_size_});
    }
    if (deltas) {
        Status status = Deltas(count, packet, header);
        if (!status.ok()) {
            return status;
        }
    }
    packet->payload = iov_.data();
    packet->payload_count = iov_.size();
    return Status::Ok();
}

// One frame for all delta pages, with their bases, each once, as prefix.
Status Encoder::Deltas(size_t count, EncodedPacket *packet, PacketHeader *header) {
    prefix_.clear();
    delta_pages_.clear();
    bases_.clear();
    for (size_t i = 0; i < count; i++) {
        const Page &page = pages_[i];
        if (!IsDelta(page.kind)) {
            continue;
        }
        delta_pages_.insert(delta_pages_.end(), page.data, page.data + kPageSize);
        if (page.base == kOwnBase ||
            std::find(bases_.begin(), bases_.end(), page.base) == bases_.end()) {
            bases_.push_back(page.base); // kOwnBase too: never found
            prefix_.insert(prefix_.end(), page.base_data, page.base_data + kPageSize);
        }
    }
    const int level =
        options_.encoding == PayloadEncoding::kZstd ? std::clamp(zstd_->level(), 1, 3) : 1;
    size_t size;
    Status status = zstd_->Delta(prefix_, delta_pages_, level, compressed_.data() + stream_size_,
                                 compressed_.size() - stream_size_, &size);
    if (status.ok()) {
        header->delta_size = static_cast<uint32_t>(size);
        packet->payload_size += size;
        iov_.push_back({compressed_.data() + stream_size_, size});
    }
    return status;
}

void Encoder::CountPages(size_t count, const EncodedPacket &packet, const PacketHeader &header) {
    uint64_t by_kind[10] = {}, own = 0;
    for (size_t i = 0; i < count; i++) {
        const Page &page = pages_[i];
        by_kind[static_cast<size_t>(page.kind)]++;
        own += (IsPatched(page.kind) || IsDelta(page.kind)) && page.base == kOwnBase;
    }
    auto of = [&](PageKind kind) { return by_kind[static_cast<size_t>(kind)]; };
    auto add = [&](Stat stat, uint64_t n) {
        if (n) {
            directory_->AddStat(member_, stat, n);
        }
    };
    add(Stat::kZeroPages, of(PageKind::kZero));
    add(Stat::kLiteralPages, of(PageKind::kLiteral));
    add(Stat::kPublishedPages, of(PageKind::kPublished) + of(PageKind::kPatchedPublished) +
                                   of(PageKind::kDeltaPublished));
    add(Stat::kReferencedPages, of(PageKind::kReference));
    add(Stat::kPatchedPages, of(PageKind::kPatched) + of(PageKind::kPatchedPublished));
    add(Stat::kDeltaPages, of(PageKind::kDelta) + of(PageKind::kDeltaPublished));
    add(Stat::kDeltaBytes, header.delta_size);
    add(Stat::kOwnPages, own);
    add(Stat::kDeferredPages, packet.deferred_pages);
    add(Stat::kPayloadBytes, packet.payload_size);
    add(Stat::kMetadataBytes, packet.header_size);
}

} // namespace gang
