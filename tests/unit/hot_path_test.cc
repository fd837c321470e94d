// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Invariant 9: once a channel is warm, pages cost no allocation at either end.
// Locks and system calls are looked for by threads_test and the benchmarks.

#include <atomic>
#include <cstdlib>
#include <new>

#include "test_vm.h"

namespace {
std::atomic<uint64_t> allocations{0};
}

// GCC sees free() where it expects the operator it has just been given.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

void *operator new(size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    if (void *p = malloc(size)) {
        return p;
    }
    throw std::bad_alloc();
}
void operator delete(void *p) noexcept { free(p); }
void operator delete(void *p, size_t) noexcept { free(p); }

namespace gang {
namespace {

using namespace test;

class HotPath : public testing::TestWithParam<PayloadEncoding> {};

INSTANTIATE_TEST_SUITE_P(Payload, HotPath,
                         testing::Values(PayloadEncoding::kRaw, PayloadEncoding::kZstd),
                         [](const auto &value) {
                             return value.param == PayloadEncoding::kRaw ? "raw" : "zstd";
                         });

// What the destination does with a packet without zero pages, without the copies
// of testing.cc.
Status Take(Decoder *decoder, const Bytes &packet, uint8_t *host, uint64_t length) {
    Status status = decoder->ParseHeader(packet.data());
    const uint8_t *metadata = packet.data() + kPacketHeaderSize;
    const uint8_t *payload = metadata + decoder->metadata_size();
    if (status.ok()) {
        status = decoder->ParseMetadata(metadata, decoder->metadata_size());
    }
    if (status.ok()) {
        status = decoder->Bind({host, length});
    }
    if (status.ok() && decoder->encoding() == PayloadEncoding::kRaw) {
        for (const iovec &part : decoder->RawIov()) {
            memcpy(part.iov_base, payload, part.iov_len);
            payload += part.iov_len;
        }
    } else if (status.ok()) {
        status = decoder->Inflate(payload);
    }
    return status.ok() ? decoder->Finish() : status;
}

TEST_P(HotPath, Invariant9_NoAllocationForAPage) {
    constexpr size_t kPages = 128;
    constexpr uint32_t kWarm = 40; // packets
    Gang gang(1 << 14, 1 << 14, 1 << 14);
    EncoderOptions options = GetParam() == PayloadEncoding::kZstd ? kZstd : kRaw;
    PageCache cache(256 * kPageSize);
    TestVm vm(gang, kPages, options);
    vm.encoder->set_peers({&cache, -1});
    vm.encoder->set_resending(true);
    vm.deferred.reserve(64 * kPages);
    const std::vector<uint64_t> offsets = vm.source.offsets();
    Bytes bytes;
    bytes.reserve(2 * kPages * kPageSize);
    Rng rng(TestSeed());
    uint64_t in_encode = 0, in_decode = 0;
    for (uint32_t packet = 1; packet <= 60; packet++) {
        for (size_t i = 0; i < kPages; i++) {
            // First some of each kind; then nearly all is a delta against what there was.
            if (packet <= kWarm) {
                FillPage(vm.source.page(i), Below(rng, 3) ? SimilarContent(Below(rng, 64), Below(rng, 4))
                                                          : 1 + Below(rng, 400));
            } else {
                const size_t variant = 4 + (2 * (packet - kWarm) + i / 64) % 12;
                FillPage(vm.source.page(i), SimilarContent(i % 64, variant));
            }
        }
        vm.Scan();
        const uint64_t before = allocations;
        GANG_OK(vm.encoder->Encode("pc.ram", vm.Cookie(), vm.source.data(), offsets.data(), kPages,
                                   IsZero, nullptr, &vm.packet));
        const uint64_t encoded = allocations;
        bytes.assign(vm.packet.header, vm.packet.header + vm.packet.header_size);
        for (size_t i = 0; i < vm.packet.payload_count; i++) {
            const auto *p = static_cast<const uint8_t *>(vm.packet.payload[i].iov_base);
            bytes.insert(bytes.end(), p, p + vm.packet.payload[i].iov_len);
        }
        const uint64_t flat = allocations;
        GANG_OK(Take(vm.decoder.get(), bytes, vm.destination.data(), vm.destination.bytes()));
        const uint64_t decoded = allocations;
        gang.directory->SetAcked(vm.member, 0, packet);
        ASSERT_TRUE(vm.Identical());
        if (packet > kWarm) {
            in_encode += encoded - before;
            in_decode += decoded - flat;
        }
    }
    EXPECT_EQ(in_encode, 0u);
    EXPECT_EQ(in_decode, 0u);
    EXPECT_GT(gang.directory->stat(vm.member, Stat::kDeltaPages), 0u);
    EXPECT_GT(gang.directory->stat(vm.member, Stat::kReferencedPages), 0u);
}

} // namespace
} // namespace gang
