// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What the tests share: seeds, guest memory with guard pages, a gang's shared
// memory without a coordinator, and packets as flat bytes.

#ifndef GANG_TESTING_H
#define GANG_TESTING_H

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "decoder.h"
#include "directory.h"
#include "encoder.h"
#include "store.h"

namespace gang::test {

using Rng = std::mt19937_64;

// $GANG_SEED, or a new one; printed, so that a failure can be repeated.
uint64_t TestSeed();
inline uint64_t Below(Rng &rng, uint64_t n) {
    return rng() % n;
}

// Page content by number: 0 is a zero page, equal numbers are equal pages.
// Every second content is compressible, as memory is.
void FillPage(uint8_t *page, uint64_t content);
// A content for FillPage() that is much like the others of its family: variants
// 1 to 15 differ from variant 0 in so many 64-byte blocks.
constexpr uint64_t kSimilar = uint64_t{1} << 32;
constexpr uint64_t SimilarContent(uint64_t family, uint64_t variant) {
    return kSimilar + family * 16 + variant;
}
bool IsZero(const void *page, size_t size);

// Owns a descriptor.
class Fd {
  public:
    Fd() = default;
    ~Fd();
    Fd(const Fd &) = delete;
    Fd &operator=(const Fd &) = delete;
    int get() const { return fd_; }
    int *out() { return &fd_; }

  private:
    int fd_ = -1;
};

// `pages` pages that are followed and preceded by memory nobody may touch.
class GuestMemory {
  public:
    explicit GuestMemory(size_t pages);
    ~GuestMemory();
    GuestMemory(const GuestMemory &) = delete;
    GuestMemory &operator=(const GuestMemory &) = delete;
    uint8_t *data() const { return data_; }
    uint8_t *page(size_t i) const { return data_ + i * kPageSize; }
    size_t pages() const { return pages_; }
    size_t bytes() const { return pages_ * kPageSize; }
    // Offsets of all pages in order, as one packet's list.
    std::vector<uint64_t> offsets() const;

  private:
    size_t pages_;
    uint8_t *mapping_;
    uint8_t *data_;
};

// A store and its directory, as two coordinators would have made them.
struct Gang {
    // mirror_pages 0: no page is coded against another member's.
    Gang(uint64_t slots, uint64_t gang_pages, uint64_t mirror_pages = 0,
         HashKind hash_kind = HashKind::kXxh3_128);
    uint32_t AddMember();

    Fd store_fd, directory_fd;
    std::unique_ptr<Store> store;
    std::unique_ptr<Directory> directory;
};

// One packet as it is on the wire, copied out of an encoder's buffers.
using Bytes = std::vector<uint8_t>;
Bytes Flatten(const EncodedPacket &packet);
// Makes the header's checksum fit what was changed, as a hostile source would.
void FixCheck(Bytes *packet, const Hasher &hasher);

// Where a RAMBlock lies at the destination; {nullptr, 0}: there is none.
struct BlockAt {
    uint8_t *host = nullptr;
    uint64_t length = 0;
    int fd = -1;         // the file that is mapped there
    uint64_t offset = 0; // from here on
};
using FindBlock = std::function<BlockAt(const std::string &id)>;

// Does with one packet what QEMU's channel thread does.  *ack as
// Decoder::ack_number().  Bytes that end early are an error, as is a rest.
Status Apply(Decoder *decoder, const Bytes &packet, const FindBlock &find, uint32_t *ack);
Status Apply(Decoder *decoder, const Bytes &packet, const GuestMemory &memory, uint32_t *ack);

} // namespace gang::test

// A Status that has to be ok.
#define GANG_OK(expression)                                                                        \
    do {                                                                                           \
        ::gang::Status gang_status_ = (expression);                                                \
        ASSERT_TRUE(gang_status_.ok()) << gang_status_.message();                                  \
    } while (0)

#endif
