// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// XXH3-128 with a secret of the gang's own, and HMAC-SHA-256.

#include "hash.h"

#include <endian.h>

// The library's own choice among the vector units of this machine; inlined, it
// would be what the compiler was told of, SSE2.
#define XXH_STATIC_LINKING_ONLY
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

namespace gang {

Hasher::Hasher(const Seed &seed, HashKind kind) : kind_(kind) {
    XXH3_generateSecret(secret_.data(), secret_.size(), seed.data(), seed.size());
    if (kind == HashKind::kSha256) {
        hmac_sha256_set_key(&hmac_, seed.size(), seed.data());
    }
}

Hash Hasher::Xxh3(const void *data, size_t size) const {
    XXH128_hash_t h = XXH3_128bits_withSecret(data, size, secret_.data(), secret_.size());
    return {h.low64 ? h.low64 : 1, h.high64 ? h.high64 : 1};
}

// The copy of the keyed state saves two of a page's 68 blocks.
Hash Hasher::Hmac(const void *data, size_t size) const {
    sha256_ctx sha = hmac_.inner;
    uint8_t inner[SHA256_DIGEST_SIZE];
    sha256_update(&sha, size, static_cast<const uint8_t *>(data));
    sha256_digest(&sha, sizeof(inner), inner);
    sha = hmac_.outer;
    uint64_t tag[2];
    sha256_update(&sha, sizeof(inner), inner);
    sha256_digest(&sha, sizeof(tag), reinterpret_cast<uint8_t *>(tag));
    const uint64_t lo = le64toh(tag[0]), hi = le64toh(tag[1]);
    return {lo ? lo : 1, hi ? hi : 1};
}

uint64_t Hasher::Digest(const Hash *hashes, size_t count, uint64_t *more) const {
    static_assert(sizeof(Hash) == 16);
    if (kind_ == HashKind::kSha256) {
        const Hash digest = Hmac(hashes, count * sizeof(Hash));
        if (more) {
            *more = digest.hi;
        }
        return digest.lo;
    }
    return XXH3_64bits_withSecret(hashes, count * sizeof(Hash), secret_.data(), secret_.size());
}

uint32_t Hasher::Check(const void *metadata, size_t metadata_size, const void *payload,
                       size_t payload_size) const {
    uint64_t parts[2] = {
        htole64(XXH3_64bits_withSecret(metadata, metadata_size, secret_.data(), secret_.size())),
        htole64(XXH3_64bits_withSecret(payload, payload_size, secret_.data(), secret_.size()))};
    return static_cast<uint32_t>(
        XXH3_64bits_withSecret(parts, sizeof(parts), secret_.data(), secret_.size()));
}

} // namespace gang
