// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The calls to zstd.

#include "compressor.h"

#include <zstd.h>

#include <algorithm>
#include <string>

#include "layout.h"

namespace gang {

namespace {

// zstd's level 1 with a search for memory instead of files, and a window that
// stays in the cache: 2 % smaller on clones' pages, and as fast
// (docs/performance.md).
constexpr int kFastMinMatch = 6;
constexpr int kFastWindowLog = 19;
constexpr int kWindowLog = 21;      // at most; what the destination keeps a channel
constexpr int kDeltaWindowLog = 20; // 128 bases and 128 pages

Status Zstd(size_t result) {
    return {Code::kInvalid, std::string("zstd: ") + ZSTD_getErrorName(result)};
}

} // namespace

void Compressor::Deleter::operator()(ZSTD_CCtx_s *c) const { ZSTD_freeCCtx(c); }

Compressor::~Compressor() = default;

Status Compressor::Create(int level, std::unique_ptr<Compressor> *out) {
    std::unique_ptr<Compressor> c(new Compressor());
    c->stream_.reset(ZSTD_createCCtx());
    c->delta_.reset(ZSTD_createCCtx());
    if (!c->stream_ || !c->delta_) {
        return {Code::kExhausted, "no memory for a zstd context"};
    }
    c->wanted_ = level;
    Status status = c->Begin(level);
    if (status.ok()) {
        *out = std::move(c);
    }
    return status;
}

size_t Compressor::Bound(size_t pages) {
    // Twice, for two frames of which each may be incompressible in part, and the
    // ends of frames.
    return 2 * ZSTD_compressBound(pages * kPageSize) + 1024;
}

Status Compressor::Begin(int level) {
    ZSTD_CCtx *c = stream_.get();
    ZSTD_CCtx_reset(c, ZSTD_reset_session_and_parameters);
    size_t result = ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level);
    if (!ZSTD_isError(result) && level == 1) {
        result = ZSTD_CCtx_setParameter(c, ZSTD_c_minMatch, kFastMinMatch);
    }
    if (!ZSTD_isError(result) && level <= 5) {
        result = ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog,
                                        level <= 1 ? kFastWindowLog : kWindowLog);
    }
    if (ZSTD_isError(result)) {
        return {Code::kInvalid, "zstd does not know level " + std::to_string(level)};
    }
    level_ = level;
    return Status::Ok();
}

Status Compressor::Stream(const iovec *pieces, size_t count, uint8_t *out_data, size_t room,
                          size_t *size) {
    ZSTD_outBuffer out = {out_data, room, 0};
    auto put = [&](const void *data, size_t n, ZSTD_EndDirective mode) {
        ZSTD_inBuffer in = {data, n, 0};
        size_t left;
        do {
            left = ZSTD_compressStream2(stream_.get(), &out, &in, mode);
            if (ZSTD_isError(left)) {
                return Zstd(left);
            }
            if (out.pos == out.size && (left || in.pos < in.size)) {
                return Status{Code::kExhausted, "zstd's output is larger than its bound"};
            }
        } while (in.pos < in.size || (mode != ZSTD_e_continue && left));
        return Status::Ok();
    };
    Status status;
    if (wanted_ != level_) {
        if (open_) {
            status = put(nullptr, 0, ZSTD_e_end);
            open_ = false;
        }
        if (status.ok()) {
            status = Begin(wanted_);
        }
    }
    for (size_t i = 0; status.ok() && i < count; i++) {
        open_ = true;
        status = put(pieces[i].iov_base, pieces[i].iov_len,
                     i + 1 < count ? ZSTD_e_continue : ZSTD_e_flush);
    }
    *size = out.pos;
    return status;
}

Status Compressor::Delta(const std::vector<uint8_t> &prefix, const std::vector<uint8_t> &data,
                         int level, uint8_t *out, size_t room, size_t *size) {
    ZSTD_CCtx *c = delta_.get();
    size_t result = ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level);
    if (!ZSTD_isError(result)) {
        result = ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, kDeltaWindowLog);
    }
    // A prefix holds for one frame; its tables are rebuilt each time.  One frame for
    // all of a packet's delta pages pays for that.
    if (!ZSTD_isError(result)) {
        result = ZSTD_CCtx_refPrefix(c, prefix.data(), prefix.size());
    }
    if (!ZSTD_isError(result)) {
        result = ZSTD_compress2(c, out, room, data.data(), data.size());
    }
    if (ZSTD_isError(result)) {
        return Zstd(result);
    }
    *size = result;
    return Status::Ok();
}

} // namespace gang
