// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Decides for each page of a packet and writes the packet.

#include "encoder.h"

#include <zstd.h>

#include <cstring>

namespace gang {

namespace {

uint8_t *PutRun(uint8_t *out, PageKind kind, size_t run) {
    uint8_t tag = static_cast<uint8_t>(kind);
    if (run <= 31) {
        *out++ = static_cast<uint8_t>(tag | (run - 1) << 3);
        return out;
    }
    *out++ = static_cast<uint8_t>(tag | 31 << 3);
    return PutVarint(out, run - 32);
}

// Prediction, then zigzag of what it missed by.
uint8_t *PutGuess(uint8_t *out, uint64_t value, uint64_t guess) {
    return PutVarint(out, ZigZag(static_cast<int64_t>(value - guess)));
}

} // namespace

void Encoder::CctxDeleter::operator()(ZSTD_CCtx_s *c) const { ZSTD_freeCCtx(c); }

Encoder::~Encoder() = default;

Status Encoder::Create(Directory *directory, StallWatch *stalls, uint32_t member, uint32_t channel,
                       const EncoderOptions &options, std::unique_ptr<Encoder> *out) {
    std::unique_ptr<Encoder> e(new Encoder());
    e->directory_ = directory;
    e->stalls_ = stalls;
    e->member_ = member;
    e->channel_ = channel;
    e->options_ = options;
    e->hasher_ = directory ? directory->hasher() : Hasher(options.seed);
    e->header_.resize(kPacketHeaderSize + kMaxMetadata);
    if (options.encoding == PayloadEncoding::kZstd) {
        e->zstd_.reset(ZSTD_createCCtx());
        if (!e->zstd_ || ZSTD_isError(ZSTD_CCtx_setParameter(
                             e->zstd_.get(), ZSTD_c_compressionLevel, options.level))) {
            return {Code::kInvalid, "zstd does not know level " + std::to_string(options.level)};
        }
    }
    *out = std::move(e);
    return Status::Ok();
}

bool Encoder::NextSlot(uint32_t *slot) {
    if (next_slot_ == chunk_end_) {
        uint32_t first;
        if (!directory_->TakeChunk(member_, channel_, &first)) {
            return false;
        }
        next_slot_ = first;
        chunk_end_ = first + kChunkSlots;
    }
    *slot = next_slot_;
    return true;
}

// Invariant 3: the staging copy is what travels and what the hash is of.
bool Encoder::Publish(Page *page, const Decision &decision, size_t *staged) {
    uint32_t slot;
    if (!NextSlot(&slot)) {
        directory_->AddStat(member_, Stat::kStoreFullPages, 1);
        return false;
    }
    uint8_t *copy = staging_.data() + *staged * kPageSize;
    memcpy(copy, page->data, kPageSize);
    if (hasher_(copy, kPageSize) != page->hash) {
        return false; // written since it was hashed: dirty again, so literal will do
    }
    if (!directory_->Claim(decision.entry, decision.claim, slot, packet_number_ + 1)) {
        return false; // somebody else published it just now
    }
    if (decision.claim != 0) {
        directory_->AddStat(member_, Stat::kTakeovers, 1);
    }
    next_slot_++;
    (*staged)++;
    page->data = copy;
    page->slot = slot;
    page->kind = PageKind::kPublished;
    return true;
}

void Encoder::Decide(Page *page, void *block, std::vector<Deferred> *deferred, size_t *staged) {
    page->kind = PageKind::kLiteral;
    Decision d = directory_->Decide(page->hash, member_);
    if (d.verdict == Verdict::kPublish && !Publish(page, d, staged)) {
        // Lost the race for the claim: the winner's copy may serve.
        d = directory_->Decide(page->hash, member_);
    }
    if (d.verdict == Verdict::kReference) {
        page->kind = PageKind::kReference;
        page->slot = d.slot;
    } else if (d.verdict == Verdict::kDefer && deferred) {
        uint32_t owner, channel;
        if (stalls_ && directory_->Owner(d.claim, &owner, &channel)) {
            if (stalls_->Stalled(owner, channel)) {
                directory_->AddStat(member_, Stat::kStalledPages, 1);
                return;
            }
            stalls_->Wait(owner, channel);
        }
        page->kind = PageKind::kInvalid;
        deferred->push_back({block, page->number * kPageSize, d.entry});
    }
}

// The page descriptions; runs of neighbours of one kind (and, where it has
// slots, of neighbouring slots) share one.
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
        const bool slots = first.kind == PageKind::kPublished || first.kind == PageKind::kReference;
        size_t run = 1;
        while (i + run < count && pages_[i + run].kind == first.kind &&
               pages_[i + run].number == first.number + run &&
               (!slots || pages_[i + run].slot == first.slot + run)) {
            run++;
        }
        p = PutRun(p, first.kind, run);
        p = PutGuess(p, first.number, state_.next_page);
        state_.next_page = first.number + run;
        if (slots) {
            uint64_t *next = first.kind == PageKind::kPublished ? &state_.next_published
                                                                : &state_.next_reference;
            p = PutGuess(p, first.slot, *next);
            *next = uint64_t{first.slot} + run;
        }
        i += run;
    }
    return static_cast<size_t>(p - out);
}

Status Encoder::Compress(size_t count, EncodedPacket *packet) {
    if (options_.encoding == PayloadEncoding::kRaw) {
        for (size_t i = 0; i < count; i++) {
            const Page &page = pages_[i];
            if (page.kind == PageKind::kLiteral || page.kind == PageKind::kPublished) {
                iov_.push_back({const_cast<uint8_t *>(page.data), kPageSize});
                packet->payload_size += kPageSize;
            }
        }
    } else {
        size_t full = 0;
        for (size_t i = 0; i < count; i++) {
            full += pages_[i].kind == PageKind::kLiteral || pages_[i].kind == PageKind::kPublished;
        }
        if (full) {
            ZSTD_outBuffer out = {compressed_.data(), compressed_.size(), 0};
            for (size_t i = 0; i < count; i++) {
                const Page &page = pages_[i];
                if (page.kind != PageKind::kLiteral && page.kind != PageKind::kPublished) {
                    continue;
                }
                ZSTD_inBuffer in = {page.data, kPageSize, 0};
                ZSTD_EndDirective mode = --full ? ZSTD_e_continue : ZSTD_e_flush;
                size_t left;
                do {
                    left = ZSTD_compressStream2(zstd_.get(), &out, &in, mode);
                    if (ZSTD_isError(left)) {
                        return {Code::kInvalid,
                                std::string("zstd: ") + ZSTD_getErrorName(left)};
                    }
                    if (out.pos == out.size && (left || in.pos < in.size)) {
                        return {Code::kExhausted, "zstd's output is larger than its bound"};
                    }
                } while (in.pos < in.size || (mode == ZSTD_e_flush && left));
            }
            iov_.push_back({compressed_.data(), out.pos});
            packet->payload_size = out.pos;
        }
    }
    packet->payload = iov_.data();
    packet->payload_count = iov_.size();
    return Status::Ok();
}

Status Encoder::Encode(const char *id, void *block, const uint8_t *host, const uint64_t *offsets,
                       size_t count, IsZeroFn is_zero, std::vector<Deferred> *deferred,
                       EncodedPacket *packet) {
    *packet = EncodedPacket{};
    if (count == 0 || count > kMaxPacketPages) {
        return {Code::kInvalid, "a packet holds 1 to " + std::to_string(kMaxPacketPages) + " pages"};
    }
    if (pages_.size() < count) { // once: all packets of a channel have the same limit
        pages_.resize(count);
        staging_.resize(count * kPageSize);
        if (options_.encoding == PayloadEncoding::kZstd) {
            compressed_.resize(ZSTD_compressBound(count * kPageSize) + 512);
        }
        iov_.reserve(count);
        shared_.reserve(count);
    }
    iov_.clear();
    shared_.clear();

    for (size_t i = 0; i < count; i++) {
        Page &page = pages_[i];
        page.data = host + offsets[i];
        page.number = offsets[i] / kPageSize;
        if (is_zero && is_zero(page.data, kPageSize)) {
            page.kind = PageKind::kZero;
            packet->zero_pages++;
            continue;
        }
        page.kind = PageKind::kLiteral;
        if (directory_) {
            page.hash = hasher_(page.data, kPageSize);
            directory_->Prefetch(page.hash);
        }
    }

    size_t staged = 0, kept = 0;
    size_t literal = 0, published = 0, referenced = 0;
    for (size_t i = 0; i < count; i++) {
        Page &page = pages_[i];
        if (directory_ && page.kind == PageKind::kLiteral) {
            Decide(&page, block, deferred, &staged);
        }
        switch (page.kind) {
        case PageKind::kInvalid:
            packet->deferred_pages++;
            continue;
        case PageKind::kLiteral:
            literal++;
            break;
        case PageKind::kPublished:
            published++;
            shared_.push_back(page.hash);
            break;
        case PageKind::kReference:
            referenced++;
            shared_.push_back(page.hash);
            break;
        case PageKind::kZero:
            break;
        }
        pages_[kept++] = page;
    }
    packet->sent_pages = literal + published + referenced;

    if (kept) {
        Status status = Compress(kept, packet);
        if (!status.ok()) {
            return status;
        }
        PacketHeader h;
        h.metadata_size =
            static_cast<uint16_t>(Describe(id, kept, header_.data() + kPacketHeaderSize));
        h.payload_size = static_cast<uint32_t>(packet->payload_size);
        h.pages = static_cast<uint16_t>(kept);
        h.encoding = options_.encoding;
        h.number = ++packet_number_;
        h.digest =
            shared_.empty() ? 0 : hasher_.Digest(shared_.data(), shared_.size());
        const bool zstd = options_.encoding == PayloadEncoding::kZstd && !iov_.empty();
        h.check = hasher_.Check(header_.data() + kPacketHeaderSize, h.metadata_size,
                                zstd ? iov_[0].iov_base : nullptr, zstd ? iov_[0].iov_len : 0);
        StoreHeader40(h, header_.data());
        packet->header = header_.data();
        packet->header_size = kPacketHeaderSize + h.metadata_size;
    }

    if (directory_) {
        directory_->AddStat(member_, Stat::kZeroPages, packet->zero_pages);
        directory_->AddStat(member_, Stat::kLiteralPages, literal);
        directory_->AddStat(member_, Stat::kPublishedPages, published);
        directory_->AddStat(member_, Stat::kReferencedPages, referenced);
        directory_->AddStat(member_, Stat::kDeferredPages, packet->deferred_pages);
        directory_->AddStat(member_, Stat::kPayloadBytes, packet->payload_size);
        directory_->AddStat(member_, Stat::kMetadataBytes, packet->header_size);
    }
    return Status::Ok();
}

void StallWatch::Observe(uint64_t now_ms) {
    for (uint32_t m = 0; m < kMaxMembers; m++) {
        if (directory_->member_state(m) == MemberState::kFree) {
            return; // records are taken in order
        }
        for (uint32_t c = 0; c < kMaxChannels; c++) {
            Channel &ch = channels_[m][c];
            uint32_t acked = directory_->acked(m, c);
            if (acked != ch.acked) {
                ch.acked = acked;
                ch.watched = false;
                ch.waited_for.store(false, std::memory_order_relaxed);
                ch.stalled.store(false, std::memory_order_relaxed);
            } else if (!ch.waited_for.load(std::memory_order_relaxed)) {
                ch.watched = false;
            } else if (!ch.watched) {
                ch.watched = true;
                ch.since_ms = now_ms;
            } else if (now_ms - ch.since_ms >= limit_ms_) {
                ch.stalled.store(true, std::memory_order_relaxed);
            }
        }
    }
}

} // namespace gang
