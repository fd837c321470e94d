// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// XXH3-128 with a secret of the gang's own.

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

Hasher::Hasher(const Seed &seed) {
    XXH3_generateSecret(secret_.data(), secret_.size(), seed.data(), seed.size());
}

Hash Hasher::operator()(const void *data, size_t size) const {
    XXH128_hash_t h = XXH3_128bits_withSecret(data, size, secret_.data(), secret_.size());
    return {h.low64 ? h.low64 : 1, h.high64 ? h.high64 : 1};
}

uint64_t Hasher::Digest(const Hash *hashes, size_t count) const {
    static_assert(sizeof(Hash) == 16);
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
