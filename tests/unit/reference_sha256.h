// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// SHA-256 and HMAC-SHA-256 as FIPS 180-4 and RFC 2104 have them, for the reference
// decoder: slow, and no code of the library that gang_core uses.

#ifndef GANG_TESTS_REFERENCE_SHA256_H
#define GANG_TESTS_REFERENCE_SHA256_H

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace gang::reference {

// The first 32 bits of the fractional part of `root` of the first N primes.
template <size_t N> std::array<uint32_t, N> FractionsOf(long double (*root)(long double)) {
    std::array<uint32_t, N> words{};
    size_t n = 0;
    for (unsigned candidate = 2; n < N; candidate++) {
        bool prime = true;
        for (unsigned d = 2; d * d <= candidate; d++) {
            prime = prime && candidate % d != 0;
        }
        if (prime) {
            const long double r = root(candidate);
            words[n++] = static_cast<uint32_t>((r - std::floor(r)) * 4294967296.0L);
        }
    }
    return words;
}

inline std::vector<uint8_t> Sha256(std::vector<uint8_t> message) {
    static const auto k = FractionsOf<64>([](long double x) { return std::cbrt(x); });
    auto h = FractionsOf<8>([](long double x) { return std::sqrt(x); });
    const uint64_t bits = message.size() * 8;
    message.push_back(0x80);
    while (message.size() % 64 != 56) {
        message.push_back(0);
    }
    for (int i = 7; i >= 0; i--) {
        message.push_back(static_cast<uint8_t>(bits >> (8 * i)));
    }
    for (size_t block = 0; block < message.size(); block += 64) {
        uint32_t w[64];
        for (size_t i = 0; i < 16; i++) {
            w[i] = 0;
            for (size_t byte = 0; byte < 4; byte++) {
                w[i] = w[i] << 8 | message[block + 4 * i + byte];
            }
        }
        for (size_t i = 16; i < 64; i++) {
            const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
            const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        auto v = h; // a to h
        for (size_t i = 0; i < 64; i++) {
            const uint32_t s1 = std::rotr(v[4], 6) ^ std::rotr(v[4], 11) ^ std::rotr(v[4], 25);
            const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
            const uint32_t t1 = v[7] + s1 + choice + k[i] + w[i];
            const uint32_t s0 = std::rotr(v[0], 2) ^ std::rotr(v[0], 13) ^ std::rotr(v[0], 22);
            const uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            v = {t1 + t2, v[0], v[1], v[2], v[3] + t1, v[4], v[5], v[6]};
        }
        for (size_t i = 0; i < 8; i++) {
            h[i] += v[i];
        }
    }
    std::vector<uint8_t> digest;
    for (uint32_t word : h) {
        for (int i = 3; i >= 0; i--) {
            digest.push_back(static_cast<uint8_t>(word >> (8 * i)));
        }
    }
    return digest;
}

inline std::vector<uint8_t> HmacSha256(std::vector<uint8_t> key,
                                       const std::vector<uint8_t> &message) {
    if (key.size() > 64) {
        key = Sha256(key);
    }
    key.resize(64);
    std::vector<uint8_t> inner, outer;
    for (uint8_t byte : key) {
        inner.push_back(byte ^ 0x36);
        outer.push_back(byte ^ 0x5c);
    }
    inner.insert(inner.end(), message.begin(), message.end());
    const std::vector<uint8_t> digest = Sha256(inner);
    outer.insert(outer.end(), digest.begin(), digest.end());
    return Sha256(outer);
}

} // namespace gang::reference

#endif
