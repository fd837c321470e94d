// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A store with a fixed hash seed, so that an input means the same today and
// tomorrow, and the two things a harness needs: bytes to take, a way to fail.

#ifndef GANG_FUZZ_STORE_H
#define GANG_FUZZ_STORE_H

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "store.h"
#include "testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace gang::fuzz {

inline constexpr uint64_t kSlots = 192;
inline constexpr uint32_t kFilled = 8; // slots 0 to 7 hold contents 100 to 107
inline constexpr uint64_t kPages = 16; // of every RAMBlock
inline constexpr Seed kSeed = {'f', 'u', 'z', 'z'};

// A promise is broken: says which and stops, so that the fuzzer keeps the input.
inline void Check(bool promise, const char *what) {
    if (!promise) {
        fprintf(stderr, "broken promise: %s\n", what);
        abort();
    }
}

// The hash of an input whose first byte is `choice`: bit 1 is for SHA-256.
constexpr HashKind KindOf(uint64_t choice) {
    return choice & 2 ? HashKind::kSha256 : HashKind::kXxh3_128;
}

// A store of kSlots with kSeed; `filled`: with its first pages in it.
std::unique_ptr<Store> MakeStore(HashKind kind, bool filled, test::Fd *fd);

// The input, taken from the front; zeros when it is used up.
class Input {
  public:
    Input(const uint8_t *data, size_t size) : data_(data), size_(size) {}
    size_t left() const { return size_; }
    const uint8_t *Take(size_t n) { // n <= left()
        const uint8_t *p = data_;
        data_ += n;
        size_ -= n;
        return p;
    }
    uint64_t Number(size_t bytes) {
        uint64_t value = 0;
        for (size_t i = 0; i < bytes && size_; i++) {
            value |= uint64_t{*Take(1)} << (8 * i);
        }
        return value;
    }
    // A number that the input names, and has left.
    size_t Length(size_t bytes) {
        const uint64_t wanted = Number(bytes);
        return wanted < size_ ? static_cast<size_t>(wanted) : size_;
    }

  private:
    const uint8_t *data_;
    size_t size_;
};

} // namespace gang::fuzz

#endif
