// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The C API of estimates: see capi.cc for its rules.

#include <gang/gang.h>

#include <cstring>
#include <memory>

#include "estimator.h"

using namespace gang;

struct GangEstimate {
    std::unique_ptr<Estimator> estimator;
};

namespace {

bool Check(const Status &status, char **error) {
    if (!status.ok() && error) {
        *error = strdup(status.message().c_str());
    }
    return status.ok();
}

} // namespace

GangEstimate *gang_estimate_new(const GangEstimateConfig *config, char **error) {
    EstimatorConfig c;
    c.member = config->member;
    c.channels = config->channels;
    c.encoder.encoding =
        config->compression == GANG_COMPRESS_NONE ? PayloadEncoding::kRaw : PayloadEncoding::kZstd;
    c.encoder.level = config->compression == GANG_COMPRESS_ZSTD ? config->level : 1;
    c.encoder.dedup = config->dedup == GANG_SHARE_PAGES    ? Dedup::kPage
                      : config->dedup == GANG_SHARE_BLOCKS ? Dedup::kSubpage
                                                           : Dedup::kDelta;
    auto estimate = std::make_unique<GangEstimate>();
    return Check(Estimator::Create(config->directory, c, &estimate->estimator), error)
               ? estimate.release()
               : nullptr;
}

void gang_estimate_scan(GangEstimate *estimate, const uint8_t *host, const uint64_t *offsets,
                        size_t count, GangIsZero *is_zero) {
    estimate->estimator->Scan(host, offsets, count, is_zero);
}

bool gang_estimate_code(GangEstimate *estimate, const char *id, void *block, const uint8_t *host,
                        const uint64_t *offsets, size_t count, GangIsZero *is_zero, char **error) {
    return Check(estimate->estimator->Code(id, block, host, offsets, count, is_zero), error);
}

bool gang_estimate_code_deferred(GangEstimate *estimate, const char *id, void *block,
                                 const uint8_t *host, char **error) {
    return Check(estimate->estimator->CodeDeferred(id, block, host), error);
}

void gang_estimate_stats(const GangEstimate *estimate, GangEstimateStats *stats) {
    const Estimator &e = *estimate->estimator;
    auto get = [&](Stat s) { return e.directory().stat(e.member(), s); };
    stats->scanned_pages = get(Stat::kScannedPages);
    stats->zero_pages = get(Stat::kScanZeroPages);
    stats->distinct_pages = e.distinct_pages();
    stats->sent_pages = e.sent_pages();
    stats->referenced_pages = get(Stat::kReferencedPages);
    stats->published_pages = get(Stat::kPublishedPages);
    stats->payload_bytes = get(Stat::kPayloadBytes);
    stats->metadata_bytes = get(Stat::kMetadataBytes);
}

void gang_estimate_free(GangEstimate *estimate) {
    delete estimate;
}
