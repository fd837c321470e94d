// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Takes packets apart, checks them, and applies them to guest memory and store.

#include "decoder.h"

#include <zstd.h>

#include <cstring>
#include <string>

namespace gang {

namespace {

// zstd level 20, the highest QEMU allows, has windows of 32 MiB.
constexpr int kMaxWindowLog = 25;

Status Malformed(const char *what) {
    return {Code::kInvalid, std::string("malformed gang packet: ") + what};
}

bool GetGuess(const uint8_t **in, const uint8_t *end, uint64_t guess, uint64_t *value) {
    uint64_t miss;
    if (!GetVarint(in, end, &miss)) {
        return false;
    }
    *value = guess + static_cast<uint64_t>(UnZigZag(miss));
    return true;
}

} // namespace

void Decoder::DctxDeleter::operator()(ZSTD_DCtx_s *d) const { ZSTD_freeDCtx(d); }

Decoder::~Decoder() = default;

Status Decoder::Create(Store *store, std::unique_ptr<Decoder> *out) {
    std::unique_ptr<Decoder> d(new Decoder());
    d->store_ = store;
    d->zstd_.reset(ZSTD_createDCtx());
    if (!d->zstd_ ||
        ZSTD_isError(ZSTD_DCtx_setParameter(d->zstd_.get(), ZSTD_d_windowLogMax, kMaxWindowLog))) {
        return {Code::kExhausted, "no memory for a zstd context"};
    }
    *out = std::move(d);
    return Status::Ok();
}

Status Decoder::ParseHeader(const uint8_t header[kPacketHeaderSize]) {
    Status status = ParseHeader40(header, &header_);
    if (status.ok() && header_.number != last_number_ + 1) {
        return Malformed("a packet is missing");
    }
    return status;
}

Status Decoder::ParseMetadata(const uint8_t *metadata, size_t size) {
    const uint8_t *p = metadata, *end = metadata + size;
    if (size != header_.metadata_size || size == 0) {
        return Malformed("size of the page descriptions");
    }
    // Where a compressed payload follows, Inflate() checks both together.
    metadata_.assign(metadata, end);
    if ((header_.encoding == PayloadEncoding::kRaw || !header_.payload_size) &&
        store_->hasher().Check(metadata, size, nullptr, 0) != header_.check) {
        return {Code::kCorrupt, "a gang packet was damaged on its way"};
    }
    if (size_t n = *p++) {
        if (static_cast<size_t>(end - p) < n || memchr(p, 0, n)) {
            return Malformed("RAMBlock name");
        }
        memcpy(state_.block, p, n);
        state_.block[n] = 0;
        state_.next_page = 0;
        p += n;
    } else if (!state_.block[0]) {
        return Malformed("no RAMBlock named yet");
    }

    pages_.clear();
    pages_.reserve(header_.pages);
    full_pages_ = shared_pages_ = 0;
    while (p < end) {
        uint8_t tag = *p++;
        uint64_t run = (tag >> 3) + 1u, first, slot = 0;
        PageKind kind = static_cast<PageKind>(tag & 7);
        if (run == 32) {
            uint64_t more;
            if (!GetVarint(&p, end, &more) || more > header_.pages) {
                return Malformed("run length");
            }
            run = more + 32;
        }
        if (run > header_.pages - pages_.size()) {
            return Malformed("more pages described than announced");
        }
        if (!GetGuess(&p, end, state_.next_page, &first) || first > UINT64_MAX / kPageSize - run) {
            return Malformed("page number");
        }
        state_.next_page = first + run;
        switch (kind) {
        case PageKind::kZero:
            break;
        case PageKind::kLiteral:
            full_pages_ += run;
            break;
        case PageKind::kPublished:
        case PageKind::kReference: {
            uint64_t *next = kind == PageKind::kPublished ? &state_.next_published
                                                          : &state_.next_reference;
            if (!GetGuess(&p, end, *next, &slot) || slot > store_->slots() ||
                run > store_->slots() - slot) {
                return Malformed("slot outside the store");
            }
            *next = slot + run;
            shared_pages_ += run;
            if (kind == PageKind::kPublished) {
                full_pages_ += run;
            }
            break;
        }
        default:
            return Malformed("unknown kind of page");
        }
        for (uint64_t i = 0; i < run; i++) {
            pages_.push_back({first + i, static_cast<uint32_t>(slot + i), kind});
        }
    }
    if (pages_.size() != header_.pages) {
        return Malformed("fewer pages described than announced");
    }
    if (header_.encoding == PayloadEncoding::kRaw
            ? header_.payload_size != full_pages_ * kPageSize
            : (header_.payload_size != 0) != (full_pages_ != 0)) {
        return Malformed("size of the payload");
    }
    host_ = nullptr;
    return Status::Ok();
}

Status Decoder::Bind(uint8_t *host, uint64_t length) {
    const uint64_t block_pages = length / kPageSize;
    for (const Page &page : pages_) {
        if (page.number >= block_pages) {
            return {Code::kInvalid, "malformed gang packet: page " + std::to_string(page.number) +
                                        " is outside RAMBlock " + state_.block};
        }
    }
    host_ = host;
    return Status::Ok();
}

const std::vector<iovec> &Decoder::RawIov() {
    iov_.clear();
    for (const Page &page : pages_) {
        if (page.kind == PageKind::kLiteral || page.kind == PageKind::kPublished) {
            iov_.push_back({PageAt(page), kPageSize});
        }
    }
    return iov_;
}

Status Decoder::Inflate(const uint8_t *payload) {
    if (!full_pages_) {
        return Status::Ok();
    }
    if (store_->hasher().Check(metadata_.data(), metadata_.size(), payload,
                               header_.payload_size) != header_.check) {
        return {Code::kCorrupt, "a gang packet was damaged on its way"};
    }
    ZSTD_inBuffer in = {payload, header_.payload_size, 0};
    for (const Page &page : pages_) {
        if (page.kind != PageKind::kLiteral && page.kind != PageKind::kPublished) {
            continue;
        }
        ZSTD_outBuffer out = {PageAt(page), kPageSize, 0};
        while (out.pos < out.size) {
            const size_t in_before = in.pos, out_before = out.pos;
            size_t left = ZSTD_decompressStream(zstd_.get(), &out, &in);
            if (ZSTD_isError(left)) {
                return {Code::kInvalid,
                        std::string("malformed gang packet: zstd: ") + ZSTD_getErrorName(left)};
            }
            if (left == 0) {
                return Malformed("the channel's zstd frame ended");
            }
            if (in.pos == in_before && out.pos == out_before) {
                return Malformed("the payload ends early");
            }
        }
    }
    // The flush's last block may still have to be taken in; it makes no output.
    // What did would show up at the start of the next packet's pages.
    uint8_t rest;
    ZSTD_outBuffer out = {&rest, 1, 0};
    size_t left = ZSTD_decompressStream(zstd_.get(), &out, &in);
    if (ZSTD_isError(left) || left == 0 || out.pos != 0 || in.pos != in.size) {
        return Malformed("the payload goes on after its last page");
    }
    return Status::Ok();
}

// The published pages of a packet have neighbouring slots, chunk by chunk, even
// where pages of other kinds lie between them: one write for each such run.
Status Decoder::Publish() {
    const uint8_t *data[Store::kMaxPut];
    Hash hashes[Store::kMaxPut];
    size_t where[Store::kMaxPut]; // in shared_
    size_t n = 0, shared = 0;
    uint32_t first = 0;
    auto put = [&] {
        Status status = n ? store_->Put(first, data, n, hashes) : Status::Ok();
        for (size_t i = 0; i < n; i++) {
            shared_[where[i]] = hashes[i];
        }
        n = 0;
        return status;
    };
    for (const Page &page : pages_) {
        if (page.kind == PageKind::kPublished) {
            if (n == Store::kMaxPut || page.slot != first + n) {
                Status status = put();
                if (!status.ok()) {
                    return status;
                }
            }
            if (n == 0) {
                first = page.slot;
            }
            data[n] = PageAt(page);
            where[n++] = shared++;
        } else if (page.kind == PageKind::kReference) {
            shared++;
        }
    }
    return put();
}

Status Decoder::Finish() {
    shared_.assign(shared_pages_, Hash{});
    Status status = Publish();
    size_t shared = 0;
    for (const Page &page : pages_) {
        if (!status.ok()) {
            return status;
        }
        if (page.kind == PageKind::kReference) {
            status = store_->Get(page.slot, PageAt(page), &shared_[shared]);
        }
        shared += page.kind == PageKind::kReference || page.kind == PageKind::kPublished;
    }
    if (!status.ok()) {
        return status;
    }
    uint64_t digest =
        shared_.empty() ? 0 : store_->hasher().Digest(shared_.data(), shared_.size());
    if (digest != header_.digest) {
        return {Code::kCorrupt, "pages of RAMBlock " + std::string(state_.block) +
                                    " do not hash to what the source sent"};
    }
    last_number_ = header_.number;
    return Status::Ok();
}

} // namespace gang
