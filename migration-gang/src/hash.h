// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The keyed 128-bit hash that names a page's content inside one gang.

#ifndef GANG_HASH_H
#define GANG_HASH_H

#include <array>
#include <cstddef>
#include <cstdint>

#include <nettle/hmac.h>

#include "layout.h"

namespace gang {

// Never all zero in either half: 0 means "no hash" in shared memory.
struct Hash {
    uint64_t lo = 0;
    uint64_t hi = 0;
    bool operator==(const Hash &) const = default;
};

// Keyed with the gang's random seed, so that nobody outside the gang can predict
// collisions.  docs/hash.md says which kind stands up to whom.
//
// kXxh3_128: XXH3-128 with a 192-byte secret derived from the seed
// (XXH3_generateSecret).  Not a cryptographic hash: members of such a gang trust
// each other.
// kSha256: the first 128 bits of HMAC-SHA-256 (RFC 4868), the seed as its key.
//
// Const after construction; thread-safe.
class Hasher {
  public:
    Hasher() = default;
    explicit Hasher(const Seed &seed, HashKind kind = HashKind::kXxh3_128);
    Hash operator()(const void *data, size_t size) const {
        return kind_ == HashKind::kSha256 ? Hmac(data, size) : Xxh3(data, size);
    }
    // Digest of a packet's shared pages, over their hashes, each as 16
    // little-endian bytes (lo, hi).  kXxh3_128: XXH3-64 with the same secret.
    // kSha256: as strong as the hash: 16 bytes, of which *more gets the second
    // eight.
    uint64_t Digest(const Hash *hashes, size_t count, uint64_t *more = nullptr) const;
    // Bytes of the digest that are in a packet's metadata, not in its header.
    size_t digest_more() const { return kind_ == HashKind::kSha256 ? sizeof(uint64_t) : 0; }
    // Checksum of a packet's page descriptions and compressed payload (size 0:
    // none): XXH3-64 of each, then the low half of XXH3-64 over both results.
    // Whatever the kind: it only finds what was damaged on the way.
    uint32_t Check(const void *metadata, size_t metadata_size, const void *payload,
                   size_t payload_size) const;

  private:
    Hash Xxh3(const void *data, size_t size) const;
    Hash Hmac(const void *data, size_t size) const;

    alignas(64) std::array<uint8_t, 192> secret_{};
    HashKind kind_ = HashKind::kXxh3_128;
    hmac_sha256_ctx hmac_{}; // that has taken the key in
};

} // namespace gang

#endif
