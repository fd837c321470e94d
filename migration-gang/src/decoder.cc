// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Takes packets apart, checks them, and applies them to guest memory and store.

#include "decoder.h"

#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

namespace gang {

namespace {

// zstd level 20, the highest QEMU allows, has windows of 32 MiB.
constexpr int kMaxWindowLog = 25;
// Pages that one call is worth.
constexpr size_t kMinFileRun = 2;

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
    d->delta_zstd_.reset(ZSTD_createDCtx());
    if (!d->zstd_ || !d->delta_zstd_ ||
        ZSTD_isError(ZSTD_DCtx_setParameter(d->zstd_.get(), ZSTD_d_windowLogMax, kMaxWindowLog))) {
        return {Code::kExhausted, "no memory for a zstd context"};
    }
    *out = std::move(d);
    return Status::Ok();
}

Status Decoder::ParseHeader(const uint8_t header[kPacketHeaderSize]) {
    Status status = ParsePacketHeader(header, &header_);
    if (status.ok() && header_.number != last_number_ + 1) {
        return Malformed("a packet is missing");
    }
    return status;
}

Status Decoder::CheckPayload(const uint8_t *compressed, size_t size) const {
    if (store_->hasher().Check(metadata_.data(), metadata_.size(), compressed, size) !=
        header_.check) {
        return {Code::kCorrupt, "a gang packet was damaged on its way"};
    }
    return Status::Ok();
}

Status Decoder::ParseMetadata(const uint8_t *metadata, size_t size) {
    const uint8_t *p = metadata, *end = metadata + size;
    if (size != header_.metadata_size || size == 0) {
        return Malformed("size of the page descriptions");
    }
    // Where something compressed follows, both are checked together when it is here.
    metadata_.assign(metadata, end);
    if (header_.encoding == PayloadEncoding::kRaw ? !header_.delta_size : !header_.payload_size) {
        Status status = CheckPayload(nullptr, 0);
        if (!status.ok()) {
            return status;
        }
    }
    const size_t before = store_->hasher().digest_more();
    if (size <= before) {
        return Malformed("size of the page descriptions");
    }
    digest_more_ = ParseDigestMore(p, before);
    p += before;
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
    stream_size_ = block_size_ = delta_pages_ = hashed_pages_ = 0;
    const uint64_t slots = store_->slots();
    while (p < end) {
        const uint8_t tag = *p++;
        uint64_t run = (tag >> 4) + 1u, first, slot = 0;
        PageKind kind = static_cast<PageKind>(tag & 15);
        if (run == 16) {
            uint64_t more;
            if (!GetVarint(&p, end, &more) || more > header_.pages) {
                return Malformed("run length");
            }
            run = more + 16;
        }
        if (kind == PageKind::kInvalid || kind > PageKind::kScattered) {
            return Malformed("unknown kind of page");
        }
        if (run > header_.pages - pages_.size()) {
            return Malformed("more pages described than announced");
        }
        if (!GetGuess(&p, end, state_.next_page, &first) || first > UINT64_MAX / kPageSize - run) {
            return Malformed("page number");
        }
        state_.next_page = first + run;
        const bool scattered = kind == PageKind::kScattered;
        if (IsPublished(kind) || kind == PageKind::kReference) {
            uint64_t *next = IsPublished(kind) ? &state_.next_published : &state_.next_reference;
            if (!GetGuess(&p, end, *next, &slot) || slot > slots || run > slots - slot) {
                return Malformed("slot outside the store");
            }
            *next = slot + run;
        }
        for (uint64_t i = 0; i < run; i++) {
            Page page = {first + i, static_cast<uint32_t>(slot + i),
                         scattered ? PageKind::kReference : kind, 0, 0};
            if (scattered) {
                uint64_t one;
                if (!GetGuess(&p, end, state_.next_reference, &one) || one >= slots) {
                    return Malformed("slot outside the store");
                }
                page.slot = static_cast<uint32_t>(one);
                state_.next_reference = one + 1;
            } else if (IsPatched(kind) || IsDelta(kind)) {
                Status status = ParseBase(&p, end, &page);
                if (!status.ok()) {
                    return status;
                }
            }
            pages_.push_back(page);
            stream_size_ += IsFull(kind) ? kPageSize : 0;
            block_size_ += static_cast<size_t>(std::popcount(page.mask)) * kPatchBlock;
            delta_pages_ += IsDelta(kind);
            hashed_pages_ += IsHashed(kind);
        }
    }
    if (pages_.size() != header_.pages) {
        return Malformed("fewer pages described than announced");
    }
    stream_size_ += block_size_;
    const size_t stream = header_.payload_size - header_.delta_size;
    if (header_.encoding == PayloadEncoding::kRaw ? stream != stream_size_
                                                  : (stream != 0) != (stream_size_ != 0)) {
        return Malformed("size of the payload");
    }
    if ((header_.delta_size != 0) != (delta_pages_ != 0)) {
        return Malformed("size of the delta");
    }
    memory_ = {};
    delta_ = nullptr;
    return Status::Ok();
}

// A base, and the mask of a patched page.
Status Decoder::ParseBase(const uint8_t **in, const uint8_t *end, Page *page) {
    uint64_t base;
    if (!GetVarint(in, end, &base)) {
        return Malformed("base");
    }
    if (base == 0) {
        page->base = kOwnBase;
    } else {
        const uint64_t slot = state_.next_base + static_cast<uint64_t>(UnZigZag(base - 1));
        if (slot >= store_->slots()) {
            return Malformed("base outside the store");
        }
        page->base = static_cast<uint32_t>(slot);
        state_.next_base = slot + 1;
    }
    if (IsPatched(page->kind)) {
        if (end - *in < 8) {
            return Malformed("mask");
        }
        for (int byte = 0; byte < 8; byte++) {
            page->mask |= uint64_t{*(*in)++} << (8 * byte);
        }
    }
    return Status::Ok();
}

Status Decoder::Bind(const Memory &memory) {
    const uint64_t block_pages = memory.length / kPageSize;
    for (const Page &page : pages_) {
        if (page.number >= block_pages) {
            return {Code::kInvalid, "malformed gang packet: page " + std::to_string(page.number) +
                                        " is outside RAMBlock " + state_.block};
        }
    }
    memory_ = memory;
    if (const size_t size = pages_.size() * kPageSize; made_.size() < size) {
        made_.resize(size); // and at once what a later packet of as many pages can need
        iov_.reserve(pages_.size() + 1);
        metadata_.reserve(kMaxMetadata);
        shared_.reserve(pages_.size());
        bases_.reserve(pages_.size());
        for (auto *buffer : {&blocks_, &frame_, &prefix_, &plain_}) {
            buffer->reserve(size);
        }
    }
    return Status::Ok();
}

const std::vector<iovec> &Decoder::RawIov() {
    iov_.clear();
    blocks_.resize(block_size_);
    uint8_t *blocks = blocks_.data();
    for (const Page &page : pages_) {
        if (IsFull(page.kind)) {
            iov_.push_back({PageAt(page), kPageSize});
        } else if (page.mask) {
            const size_t n = static_cast<size_t>(std::popcount(page.mask)) * kPatchBlock;
            iov_.push_back({blocks, n});
            blocks += n;
        }
    }
    if (header_.delta_size) {
        frame_.resize(header_.delta_size);
        iov_.push_back({frame_.data(), frame_.size()});
        delta_ = frame_.data();
    }
    return iov_;
}

Status Decoder::Inflate(const uint8_t *payload) {
    if (!header_.payload_size) {
        return Status::Ok();
    }
    Status status = CheckPayload(payload, header_.payload_size);
    const size_t stream = header_.payload_size - header_.delta_size;
    if (status.ok() && stream) {
        status = Stream(payload, stream);
    }
    if (status.ok() && header_.delta_size) {
        frame_.assign(payload + stream, payload + header_.payload_size);
        delta_ = frame_.data();
    }
    return status;
}

Status Decoder::Stream(const uint8_t *payload, size_t size) {
    ZSTD_inBuffer in = {payload, size, 0};
    blocks_.resize(block_size_);
    uint8_t *blocks = blocks_.data();
    size_t left = 1; // 0: a frame ended, because the source changed its level
    for (const Page &page : pages_) {
        ZSTD_outBuffer out;
        if (IsFull(page.kind)) {
            out = {PageAt(page), kPageSize, 0};
        } else if (page.mask) {
            out = {blocks, static_cast<size_t>(std::popcount(page.mask)) * kPatchBlock, 0};
            blocks += out.size;
        } else {
            continue;
        }
        while (out.pos < out.size) {
            const size_t in_before = in.pos, out_before = out.pos;
            left = ZSTD_decompressStream(zstd_.get(), &out, &in);
            if (ZSTD_isError(left)) {
                return {Code::kInvalid,
                        std::string("malformed gang packet: zstd: ") + ZSTD_getErrorName(left)};
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
    const bool ended = left == 0;
    left = ZSTD_decompressStream(zstd_.get(), &out, &in);
    if (ended || ZSTD_isError(left) || left == 0 || out.pos != 0 || in.pos != in.size) {
        return Malformed("the payload goes on after its last page");
    }
    return Status::Ok();
}

// Patched pages: their base, and over it the blocks that differ.
Status Decoder::Patch() {
    const uint8_t *blocks = blocks_.data();
    for (const Page &page : pages_) {
        if (!IsPatched(page.kind)) {
            continue;
        }
        uint8_t *at = PageAt(page);
        if (page.base == kOwnBase) {
            memcpy(at, GuestAt(page), kPageSize);
        } else {
            Hash hash;
            Status status = store_->Get(page.base, at, &hash);
            if (!status.ok()) {
                return status;
            }
        }
        for (uint64_t mask = page.mask; mask; mask &= mask - 1) {
            const size_t block = static_cast<size_t>(std::countr_zero(mask));
            memcpy(at + block * kPatchBlock, blocks, kPatchBlock);
            blocks += kPatchBlock;
        }
    }
    return Status::Ok();
}

// Delta pages: their bases, one after the other, are the frame's prefix.
Status Decoder::Delta() {
    prefix_.clear();
    bases_.clear();
    for (const Page &page : pages_) {
        if (!IsDelta(page.kind)) {
            continue;
        }
        if (page.base == kOwnBase) {
            prefix_.insert(prefix_.end(), GuestAt(page), GuestAt(page) + kPageSize);
        } else if (std::find(bases_.begin(), bases_.end(), page.base) == bases_.end()) {
            Hash hash;
            bases_.push_back(page.base);
            prefix_.resize(prefix_.size() + kPageSize);
            Status status = store_->Get(page.base, prefix_.data() + prefix_.size() - kPageSize, &hash);
            if (!status.ok()) {
                return status;
            }
        }
    }
    plain_.resize(delta_pages_ * kPageSize);
    // ZSTD_decompressDCtx() would take several, and ones to skip.
    if (ZSTD_findFrameCompressedSize(delta_, header_.delta_size) != header_.delta_size) {
        return Malformed("the delta is not one zstd frame");
    }
    size_t n = ZSTD_DCtx_refPrefix(delta_zstd_.get(), prefix_.data(), prefix_.size());
    if (!ZSTD_isError(n)) {
        n = ZSTD_decompressDCtx(delta_zstd_.get(), plain_.data(), plain_.size(), delta_,
                                header_.delta_size);
    }
    if (ZSTD_isError(n)) {
        return {Code::kInvalid,
                std::string("malformed gang packet: delta: ") + ZSTD_getErrorName(n)};
    }
    if (n != plain_.size()) {
        return Malformed("the delta frame is too short");
    }
    const uint8_t *from = plain_.data();
    for (const Page &page : pages_) {
        if (IsDelta(page.kind)) {
            memcpy(PageAt(page), from, kPageSize);
            from += kPageSize;
        }
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
        if (IsPublished(page.kind)) {
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
        } else {
            shared += IsHashed(page.kind);
        }
    }
    return put();
}

void Decoder::Write() {
    for (size_t i = 0; i < pages_.size();) {
        size_t run = 1;
        if (pages_[i].kind != PageKind::kZero) {
            while (i + run < pages_.size() && pages_[i + run].kind != PageKind::kZero &&
                   pages_[i + run].number == pages_[i].number + run) {
                run++;
            }
            WriteRun(pages_[i], run);
        }
        i += run;
    }
}

// Memory that is touched for the first time costs a page fault a page, more than
// all else that is done with it; a write to the file behind it does not, nor
// does it clear the page first.
void Decoder::WriteRun(const Page &first, size_t count) {
    const size_t size = count * kPageSize;
    if (memory_.fd >= 0 && count >= kMinFileRun &&
        pwrite(memory_.fd, PageAt(first), size,
               static_cast<off_t>(memory_.offset + first.number * kPageSize)) ==
            static_cast<ssize_t>(size)) {
        return;
    }
    // No such file, or one that is not for writing
    memcpy(GuestAt(first), PageAt(first), size);
}

Status Decoder::Finish() {
    shared_.assign(hashed_pages_, Hash{});
    Status status;
    if (header_.encoding == PayloadEncoding::kRaw && header_.delta_size) {
        status = CheckPayload(delta_, header_.delta_size);
    }
    if (status.ok()) {
        status = Patch();
    }
    if (status.ok() && delta_pages_) {
        status = Delta();
    }
    if (status.ok()) {
        status = Publish();
    }
    size_t shared = 0;
    for (const Page &page : pages_) {
        if (!status.ok()) {
            return status;
        }
        if (page.kind == PageKind::kReference) {
            status = store_->Get(page.slot, PageAt(page), &shared_[shared]);
        } else if (page.kind == PageKind::kPatched || page.kind == PageKind::kDelta) {
            shared_[shared] = store_->hasher()(PageAt(page), kPageSize);
        }
        shared += IsHashed(page.kind);
    }
    if (!status.ok()) {
        return status;
    }
    uint64_t digest_more = 0;
    const uint64_t digest =
        shared_.empty() ? 0
                        : store_->hasher().Digest(shared_.data(), shared_.size(), &digest_more);
    if (digest != header_.digest || digest_more != digest_more_) {
        return {Code::kCorrupt, "pages of RAMBlock " + std::string(state_.block) +
                                    " do not hash to what the source sent"};
    }
    Write();
    last_number_ = header_.number;
    return Status::Ok();
}

} // namespace gang
