// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A member's scan and first round without a destination: see estimator.h.

#include "estimator.h"

#include <algorithm>
#include <string>

namespace gang {

namespace {
constexpr size_t kPacketPages = 128; // as multifd's
} // namespace

void DistinctCounter::Add(uint64_t hash) {
    auto wanted = [this](uint64_t h) { return (h & ((uint64_t{1} << bits_) - 1)) == 0; };
    if (!wanted(hash)) {
        return;
    }
    kept_.emplace(hash, 0);
    while (kept_.size() > kMost && bits_ < 48) {
        bits_++;
        std::erase_if(kept_, [&](const auto &kept) { return !wanted(kept.first); });
    }
}

Status Estimator::Create(int directory_fd, const EstimatorConfig &config,
                         std::unique_ptr<Estimator> *out) {
    if (config.member >= kMaxMembers || config.channels < 1 || config.channels > kMaxChannels) {
        return {Code::kInvalid, "an estimate has up to " + std::to_string(kMaxMembers) +
                                    " members with 1 to " + std::to_string(kMaxChannels) +
                                    " channels each"};
    }
    std::unique_ptr<Estimator> e(new Estimator());
    e->config_ = config;
    Status status = Directory::Open(directory_fd, &e->directory_);
    if (!status.ok()) {
        return status;
    }
    e->channels_.resize(config.channels);
    for (uint32_t i = 0; i < config.channels; i++) {
        status = Encoder::Create(e->directory_.get(), nullptr, config.member, i, config.encoder,
                                 &e->channels_[i].encoder);
        if (!status.ok()) {
            return status;
        }
    }
    *out = std::move(e);
    return Status::Ok();
}

void Estimator::Scan(const uint8_t *host, const uint64_t *offsets, size_t count, IsZeroFn is_zero) {
    uint64_t zero = 0, duplicates = 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *page = host + offsets[i];
        if (is_zero && is_zero(page, kPageSize)) {
            zero++;
            continue;
        }
        const Hash hash = directory_->hasher()(page, kPageSize);
        distinct_.Add(hash.lo);
        if (directory_->Count(hash)) {
            duplicates++;
        } else if (directory_->has_mirror()) {
            directory_->CountFeatures(FeaturesOf(page));
        }
    }
    distinct_pages_.store(distinct_.distinct(), std::memory_order_relaxed);
    directory_->AddStat(config_.member, Stat::kScannedPages, count - zero);
    directory_->AddStat(config_.member, Stat::kScanZeroPages, zero);
    directory_->AddStat(config_.member, Stat::kScanDuplicates, duplicates);
}

Status Estimator::Encode(const char *id, void *block, const uint8_t *host, const uint64_t *offsets,
                         size_t count, IsZeroFn is_zero, std::vector<Deferred> *deferred) {
    const auto number = static_cast<uint32_t>(next_channel_++ % channels_.size());
    Channel &channel = channels_[number];
    EncodedPacket packet;
    Status status =
        channel.encoder->Encode(id, block, host, offsets, count, is_zero, deferred, &packet);
    if (status.ok() && !packet.empty()) {
        directory_->SetAcked(config_.member, number, ++channel.packets);
        sent_pages_.fetch_add(packet.sent_pages, std::memory_order_relaxed);
    }
    return status;
}

Status Estimator::Code(const char *id, void *block, const uint8_t *host, const uint64_t *offsets,
                       size_t count, IsZeroFn is_zero) {
    return Encode(id, block, host, offsets, count, is_zero, &deferred_);
}

Status Estimator::CodeDeferred(const char *id, void *block, const uint8_t *host) {
    std::vector<uint64_t> offsets;
    auto flush = [&] {
        Status status = offsets.empty() ? Status::Ok()
                                        : Encode(id, block, host, offsets.data(), offsets.size(),
                                                 nullptr, nullptr);
        offsets.clear();
        return status;
    };
    for (const Deferred &page : deferred_) {
        if (page.block == block) {
            offsets.push_back(page.offset);
            if (offsets.size() == kPacketPages) {
                if (Status status = flush(); !status.ok()) {
                    return status;
                }
            }
        }
    }
    std::erase_if(deferred_, [&](const Deferred &page) { return page.block == block; });
    return flush();
}

} // namespace gang
