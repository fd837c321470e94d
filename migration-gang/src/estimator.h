// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What one VM's migration in a gang would send, found without sending it: the
// scan and the first round of a real member, into a directory that nobody
// migrates by.

#ifndef GANG_ESTIMATOR_H
#define GANG_ESTIMATOR_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "directory.h"
#include "encoder.h"
#include "status.h"

namespace gang {

// An unbiased count of distinct hashes in bounded memory: it keeps those whose low bits
// are zero, and asks for one more zero bit whenever they become too many (Gibbons,
// "Distinct sampling for highly-accurate answers", VLDB 2001).  Exact up to
// kMost hashes; beyond, off by less than 1 % in most cases.
class DistinctCounter {
  public:
    void Add(uint64_t hash);
    uint64_t distinct() const { return static_cast<uint64_t>(kept_.size()) << bits_; }

  private:
    static constexpr size_t kMost = 65536;
    std::unordered_map<uint64_t, char> kept_;
    unsigned bits_ = 0;
};

struct EstimatorConfig {
    uint32_t member = 0; // its record in the directory, of its own
    uint32_t channels = 2;
    EncoderOptions encoder;
};

// First Scan() of every page, in all VMs of the gang, then Code() and Finish(),
// each from one thread.  Code() acknowledges each packet at once: what is
// published is there for the others with the next packet.  The figures are this
// member's in the directory; the guest may write meanwhile.
class Estimator {
  public:
    // `directory_fd` stays the caller's.
    static Status Create(int directory_fd, const EstimatorConfig &config,
                         std::unique_ptr<Estimator> *out);

    void Scan(const uint8_t *host, const uint64_t *offsets, size_t count, IsZeroFn is_zero);
    // Packets go to the channels in turn.  `block` is a cookie that is the same
    // for all pages of a RAMBlock.
    Status Code(const char *id, void *block, const uint8_t *host, const uint64_t *offsets,
                size_t count, IsZeroFn is_zero);
    // Those of this RAMBlock that Code() has put off, as other members had them
    // under way.
    Status CodeDeferred(const char *id, void *block, const uint8_t *host);

    // Any thread.
    uint64_t distinct_pages() const { return distinct_pages_.load(std::memory_order_relaxed); }
    // Without zero pages.
    uint64_t sent_pages() const { return sent_pages_.load(std::memory_order_relaxed); }
    const Directory &directory() const { return *directory_; }
    uint32_t member() const { return config_.member; }

  private:
    struct Channel {
        std::unique_ptr<Encoder> encoder;
        uint32_t packets = 0;
    };
    Estimator() = default;
    Status Encode(const char *id, void *block, const uint8_t *host, const uint64_t *offsets,
                  size_t count, IsZeroFn is_zero, std::vector<Deferred> *deferred);

    EstimatorConfig config_;
    std::unique_ptr<Directory> directory_;
    DistinctCounter distinct_;
    std::atomic<uint64_t> distinct_pages_{0}, sent_pages_{0};
    std::vector<Channel> channels_;
    size_t next_channel_ = 0;
    std::vector<Deferred> deferred_;
};

} // namespace gang

#endif
