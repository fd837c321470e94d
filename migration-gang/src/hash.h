// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The keyed 128-bit hash that names a page's content inside one gang.

#ifndef GANG_HASH_H
#define GANG_HASH_H

#include <array>
#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace gang {

// Never all zero in either half: 0 means "no hash" in shared memory.
struct Hash {
    uint64_t lo = 0;
    uint64_t hi = 0;
    bool operator==(const Hash &) const = default;
};

// XXH3-128 with a 192-byte secret derived from the gang's random seed
// (XXH3_generateSecret), so that nobody outside the gang can predict
// collisions.  Not a cryptographic hash: members of a gang trust each other.
// Const after construction; thread-safe.
class Hasher {
  public:
    Hasher() = default;
    explicit Hasher(const Seed &seed);
    Hash operator()(const void *data, size_t size) const;
    // Digest of a packet's shared pages: XXH3-64 with the same secret over
    // their hashes, each as 16 little-endian bytes (lo, hi).
    uint64_t Digest(const Hash *hashes, size_t count) const;
    // Checksum of a packet's page descriptions and compressed payload (size 0:
    // none): XXH3-64 of each, then the low half of XXH3-64 over both results.
    uint32_t Check(const void *metadata, size_t metadata_size, const void *payload,
                   size_t payload_size) const;

  private:
    alignas(64) std::array<uint8_t, 192> secret_{};
};

} // namespace gang

#endif
