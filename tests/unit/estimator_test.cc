// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// An estimate is what the members' first rounds would send.

#include "estimator.h"

#include <algorithm>

#include "test_vm.h"

namespace gang::test {
namespace {

constexpr size_t kPages = 512;

// VMs of one gang whose memory is there to be estimated.
struct Estimated {
    Estimated(size_t n, const EncoderOptions &options, uint64_t mirror_pages = 0)
        : gang(n * kPages, n * kPages, mirror_pages) {
        for (size_t i = 0; i < n; i++) {
            memory.push_back(std::make_unique<GuestMemory>(kPages));
            EstimatorConfig config;
            config.member = gang.AddMember();
            config.channels = 1;
            config.encoder = options;
            estimators.emplace_back();
            Status status = Estimator::Create(gang.directory_fd.get(), config, &estimators.back());
            EXPECT_TRUE(status.ok()) << status.message();
        }
    }
    void Run() {
        for (size_t i = 0; i < memory.size(); i++) {
            auto offsets = memory[i]->offsets();
            estimators[i]->Scan(memory[i]->data(), offsets.data(), offsets.size(), IsZero);
        }
        for (size_t i = 0; i < memory.size(); i++) {
            auto offsets = memory[i]->offsets();
            for (size_t at = 0; at < offsets.size(); at += 128) {
                GANG_OK(estimators[i]->Code("ram", memory[i].get(), memory[i]->data(), &offsets[at],
                                            128, IsZero));
            }
            GANG_OK(estimators[i]->CodeDeferred("ram", memory[i].get(), memory[i]->data()));
        }
    }
    uint64_t Sum(Stat stat) const {
        uint64_t sum = 0;
        for (const auto &e : estimators) {
            sum += e->directory().stat(e->member(), stat);
        }
        return sum;
    }
    Gang gang;
    std::vector<std::unique_ptr<GuestMemory>> memory;
    std::vector<std::unique_ptr<Estimator>> estimators;
};

TEST(Estimator, WhatTwoMembersHaveIsCodedOnce) {
    Estimated e(2, kRaw);
    for (size_t i = 0; i < kPages; i++) {
        // Zero, of both, of one twice, of one once.
        FillPage(e.memory[0]->page(i), i % 4 == 0 ? 0 : i % 4 == 1 ? i : 10000 + i / 2 * 2);
        FillPage(e.memory[1]->page(i), i % 4 == 0 ? 0 : i % 4 == 1 ? i : 20000 + i);
    }
    e.Run();
    const size_t quarter = kPages / 4;
    EXPECT_EQ(e.Sum(Stat::kScanZeroPages), 2 * quarter);
    EXPECT_EQ(e.Sum(Stat::kScannedPages), 6 * quarter);
    EXPECT_EQ(e.estimators[0]->distinct_pages(), 2 * quarter);
    EXPECT_EQ(e.estimators[1]->distinct_pages(), 3 * quarter);
    EXPECT_EQ(e.Sum(Stat::kScanDuplicates), 2 * quarter); // within the first, and across
    EXPECT_EQ(e.Sum(Stat::kReferencedPages), 2 * quarter);
    EXPECT_EQ(e.Sum(Stat::kPublishedPages), 2 * quarter);
    EXPECT_EQ(e.Sum(Stat::kPayloadBytes), 4 * quarter * kPageSize);
    EXPECT_EQ(e.estimators[0]->sent_pages() + e.estimators[1]->sent_pages(), 6 * quarter);
}

// The same encoder does both: so are the bytes.
TEST(Estimator, BytesAreThoseOfARealFirstRound) {
    Rng rng(TestSeed());
    Estimated e(1, kZstd);
    Gang gang(kPages, kPages);
    TestVm vm(gang, gang.directory.get(), kPages, kZstd);
    for (size_t i = 0; i < kPages; i++) {
        FillPage(e.memory[0]->page(i), Below(rng, kPages));
        memcpy(vm.source.page(i), e.memory[0]->page(i), kPageSize);
    }
    e.Run();
    uint64_t real = 0;
    auto offsets = vm.source.offsets();
    for (size_t i = 0; i < kPages; i++) {
        if (!IsZero(vm.source.page(i), kPageSize)) {
            gang.directory->Count(gang.directory->hasher()(vm.source.page(i), kPageSize));
        }
    }
    std::unique_ptr<Encoder> encoder;
    GANG_OK(Encoder::Create(gang.directory.get(), nullptr, vm.member, 1, kZstd, &encoder));
    uint32_t packets = 0;
    auto send = [&](const uint64_t *first, size_t count, std::vector<Deferred> *deferred) {
        EncodedPacket packet;
        GANG_OK(encoder->Encode("ram", nullptr, vm.source.data(), first, count,
                                deferred ? IsZero : nullptr, deferred, &packet));
        if (!packet.empty()) {
            gang.directory->SetAcked(vm.member, 1, ++packets);
        }
        real += packet.payload_size;
    };
    std::vector<Deferred> deferred;
    for (size_t at = 0; at < kPages; at += 128) {
        send(&offsets[at], 128, &deferred);
    }
    std::vector<uint64_t> late;
    for (const Deferred &page : deferred) {
        late.push_back(page.offset);
    }
    for (size_t at = 0; at < late.size(); at += 128) {
        send(&late[at], std::min<size_t>(128, late.size() - at), nullptr);
    }
    EXPECT_EQ(e.Sum(Stat::kPayloadBytes), real);
}

TEST(Estimator, DirectoryThatIsNoneIsRefused) {
    std::unique_ptr<Estimator> estimator;
    EXPECT_FALSE(Estimator::Create(STDIN_FILENO, {}, &estimator).ok());
    Gang gang(64, 64);
    EstimatorConfig config;
    config.member = kMaxMembers;
    EXPECT_FALSE(Estimator::Create(gang.directory_fd.get(), config, &estimator).ok());
    config = {};
    config.channels = kMaxChannels + 1;
    EXPECT_FALSE(Estimator::Create(gang.directory_fd.get(), config, &estimator).ok());
}

TEST(DistinctCounter, IsExactForFewAndNearForMany) {
    Rng rng(7); // a seed of its own: what is near is a matter of chance
    for (size_t n : {0u, 1u, 1000u, 65536u, 300000u}) {
        DistinctCounter counter;
        std::vector<uint64_t> hashes(n);
        for (uint64_t &hash : hashes) {
            hash = rng();
        }
        for (int twice = 0; twice < 2; twice++) {
            for (uint64_t hash : hashes) {
                counter.Add(hash);
            }
        }
        if (n <= 65536) {
            EXPECT_EQ(counter.distinct(), n);
        } else {
            EXPECT_NEAR(static_cast<double>(counter.distinct()), static_cast<double>(n),
                        0.03 * static_cast<double>(n));
        }
    }
}

} // namespace
} // namespace gang::test
