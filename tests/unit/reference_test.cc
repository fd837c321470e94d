// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The reference decoder, written from docs/wire-format.md, beside the real one:
// both take what the real encoder makes, and both refuse the same packets.

#include "reference_decoder.h"

#include <zstd.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

// A VM whose stream goes to both decoders, each with a store and RAM of its own.
struct Pair {
    Pair(Gang &gang, reference::ReferenceStore *store, size_t pages, const EncoderOptions &options)
        : vm(gang, pages, options), reference(store, &ram) {
        for (const char *id : {"pc.ram", "0000:00:02.0/vga.vram", "pc.bios"}) {
            ram[id].resize(pages * kPageSize);
            real[id].resize(pages * kPageSize);
        }
    }
    // Where the real decoder writes: as many blocks as the reference has.
    Status Real(const Bytes &packet) {
        return Apply(
            vm.decoder.get(), packet,
            [&](const std::string &id) {
                auto block = real.find(id);
                return block == real.end() ? BlockAt{}
                                           : BlockAt{block->second.data(), block->second.size()};
            },
            &vm.to_ack);
    }
    std::string Reference(const Bytes &packet) { // "" or the rule that is violated
        try {
            EXPECT_EQ(reference.Apply(packet), vm.to_ack);
            return "";
        } catch (const reference::Violation &violation) {
            return violation.what();
        }
    }

    TestVm vm;
    PageCache cache{64 * kPageSize};
    reference::Ram ram, real;
    reference::ReferenceDecoder reference;
};

class Reference : public testing::TestWithParam<std::tuple<PayloadEncoding, HashKind>> {
  protected:
    static constexpr size_t kPages = 128;
    static constexpr uint64_t kSlots = 512;
    EncoderOptions options() const { return {std::get<0>(GetParam()), 1}; }
    HashKind kind() const { return std::get<1>(GetParam()); }
    uint32_t kind_number() const { return static_cast<uint32_t>(kind()); }
    // The reference's SHA-256 is slow, above all with sanitizers.
    bool slow() const { return kind() == HashKind::kSha256; }
};

INSTANTIATE_TEST_SUITE_P(
    Payload, Reference,
    testing::Combine(testing::Values(PayloadEncoding::kRaw, PayloadEncoding::kZstd),
                     testing::Values(HashKind::kXxh3_128, HashKind::kSha256)),
    [](const auto &value) {
        const bool raw = std::get<0>(value.param) == PayloadEncoding::kRaw;
        const bool sha256 = std::get<1>(value.param) == HashKind::kSha256;
        return std::string(raw ? "raw" : "zstd") + (sha256 ? "_sha256" : "");
    });

TEST_P(Reference, AppliesRandomPacketsOfTheRealEncoderAsTheRealDecoderDoes) {
    Rng rng(TestSeed());
    for (int gangs = 0; gangs < (slow() ? 2 : 8); gangs++) {
        Gang gang(kSlots, 2048, kSlots, kind());
        reference::ReferenceStore store(kSlots, gang.store->seed().data(), kind_number());
        std::vector<std::unique_ptr<Pair>> pairs;
        for (int i = 0; i < 3; i++) {
            EncoderOptions with = options();
            with.dedup = gangs % 3 == 0 ? Dedup::kSubpage : Dedup::kDelta;
            pairs.push_back(std::make_unique<Pair>(gang, &store, kPages, with));
            pairs.back()->vm.encoder->set_peers({&pairs.back()->cache, -1});
        }
        for (int packet = 0; packet < 120; packet++) {
            Pair &pair = *pairs[Below(rng, pairs.size())];
            auto block = pair.ram.begin();
            std::advance(block, Below(rng, 4) ? 0 : Below(rng, pair.ram.size()));
            pair.vm.block = block->first;
            std::vector<size_t> pages;
            const size_t stride = 1 + Below(rng, 3) * Below(rng, 2);
            for (size_t p = Below(rng, 20); p < kPages; p += stride) {
                switch (Below(rng, 4)) {
                case 0:
                    FillPage(pair.vm.source.page(p), Below(rng, 200));
                    break;
                case 1:
                    FillPage(pair.vm.source.page(p), p % 50);
                    break;
                default:
                    // Of a family that all have, or of one of its own.
                    FillPage(pair.vm.source.page(p),
                             SimilarContent(Below(rng, 2) ? p % 8 : 100 + pair.vm.member * 200 + p,
                                            Below(rng, 16)));
                }
                pages.push_back(p);
            }
            if (Below(rng, 4) == 0) {
                std::shuffle(pages.begin(), pages.end(), rng);
            }
            if (packet % 7 == 0) {
                for (size_t p : pages) { // as a scan would
                    gang.directory->CountFeatures(FeaturesOf(pair.vm.source.page(p)));
                }
            }
            pair.vm.encoder->set_resending(packet > 30);
            Bytes bytes = pair.vm.Encode(pages, Below(rng, 2));
            if (bytes.empty()) {
                continue;
            }
            GANG_OK(pair.Real(bytes));
            ASSERT_EQ(pair.Reference(bytes), "");
            ASSERT_EQ(pair.ram, pair.real);
            if (Below(rng, 3)) {
                pair.vm.Ack();
            }
        }
        uint64_t patched = 0, delta = 0, own = 0;
        for (const auto &pair : pairs) {
            patched += gang.directory->stat(pair->vm.member, Stat::kPatchedPages);
            delta += gang.directory->stat(pair->vm.member, Stat::kDeltaPages);
            own += gang.directory->stat(pair->vm.member, Stat::kOwnPages);
        }
        EXPECT_GT(patched, 0u);
        EXPECT_EQ(delta > 0, gangs % 3 != 0);
        EXPECT_GT(own, 0u);
        EXPECT_GT(store.slots.size(), 0u);
        EXPECT_EQ(store.slots.size(), gang.store->slots_used());
    }
}

// A real packet whose delta pages come in these frames.
TEST_P(Reference, BothRefuseADeltaThatIsNotOneFrame) {
    enum { kOne, kTwo, kSkippableAfter, kSkippableBefore };
    for (int frames : {kOne, kTwo, kSkippableAfter, kSkippableBefore}) {
        SCOPED_TRACE(frames);
        Gang gang(kSlots, 2048, kSlots, kind());
        reference::ReferenceStore store(kSlots, gang.store->seed().data(), kind_number());
        EncoderOptions with = options();
        with.dedup = Dedup::kDelta;
        Pair a(gang, &store, 8, with), b(gang, &store, 8, with);
        for (Pair *pair : {&a, &b}) {
            pair->vm.encoder->set_peers({&pair->cache, -1});
            for (size_t i = 0; i < 8; i++) {
                FillPage(pair->vm.source.page(i), SimilarContent(i, pair == &a ? 0 : 12));
            }
            pair->vm.Scan();
        }
        const Bytes published = a.vm.EncodeAll();
        GANG_OK(a.Real(published));
        ASSERT_EQ(a.Reference(published), "");
        a.vm.Ack();

        Bytes packet = b.vm.EncodeAll();
        PacketHeader h;
        GANG_OK(ParsePacketHeader(packet.data(), &h));
        ASSERT_GT(h.delta_size, 0u);
        ASSERT_EQ(h.delta_size, h.payload_size);
        packet.resize(packet.size() - h.delta_size);
        Bytes delta;
        const auto skippable = [&] {
            const Bytes frame = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 'm', 'o', 'r', 'e'};
            delta.insert(delta.end(), frame.begin(), frame.end());
        };
        const auto add = [&](size_t first, size_t count) {
            Bytes out(ZSTD_compressBound(count * kPageSize));
            out.resize(ZSTD_compress(out.data(), out.size(), b.vm.source.page(first),
                                     count * kPageSize, 1));
            delta.insert(delta.end(), out.begin(), out.end());
        };
        if (frames == kSkippableBefore) {
            skippable();
        }
        add(0, frames == kTwo ? 4 : 8);
        if (frames == kTwo) {
            add(4, 4);
        } else if (frames == kSkippableAfter) {
            skippable();
        }
        h.payload_size = h.delta_size = static_cast<uint32_t>(delta.size());
        h.check = gang.store->hasher().Check(packet.data() + kPacketHeaderSize, h.metadata_size,
                                             delta.data(), delta.size());
        StorePacketHeader(h, packet.data());
        packet.insert(packet.end(), delta.begin(), delta.end());
        EXPECT_EQ(b.Real(packet).ok(), frames == kOne);
        EXPECT_EQ(b.Reference(packet), frames == kOne ? "" : "the delta is one frame");
    }
}

// The first damaged packet of a fresh channel: either both take it, with the
// same memory as result, or neither does.
TEST_P(Reference, RefusesWhatTheRealDecoderRefuses) {
    Rng rng(TestSeed());
    size_t refused = 0, taken = 0;
    const int rounds = slow() ? 300 : 1500;
    for (int round = 0; round < rounds; round++) {
        Gang gang(kSlots, 2048, kSlots, kind());
        reference::ReferenceStore store(kSlots, gang.store->seed().data(), kind_number());
        Pair publisher(gang, &store, 4, options()), pair(gang, &store, 8, options());
        publisher.vm.Fill({1, 2, 3, round % 3 ? SimilarContent(0, 0) : 4});
        if (round % 2) {
            pair.vm.Fill({0, 1, 2, SimilarContent(0, 12), 0, 10, 3, SimilarContent(0, 2)});
        } else { // no digest, so that other pages of the VM may be described
            pair.vm.Fill({0, 21, 0, 22, 23, 0, 0, 24});
        }
        publisher.vm.Scan();
        pair.vm.Scan();
        Bytes first = publisher.vm.EncodeAll();
        GANG_OK(publisher.Real(first));
        ASSERT_EQ(publisher.Reference(first), "");
        publisher.vm.Ack();

        Bytes bytes = pair.vm.EncodeAll();
        const size_t head = pair.vm.packet.header_size;
        const size_t name = kPacketHeaderSize + gang.store->hasher().digest_more() + 7;
        for (uint64_t n = 1 + Below(rng, 2); n; n--) {
            // Mostly the descriptions, where the freedom is.
            uint64_t where = Below(rng, 10);
            size_t at = where == 0 ? Below(rng, kPacketHeaderSize)
                        : where == 1
                            ? Below(rng, bytes.size())
                            : name + Below(rng, head - name);
            bytes[at] ^= static_cast<uint8_t>(1 << Below(rng, 8));
        }
        if (round % 8) {
            FixCheck(&bytes, gang.store->hasher());
        }
        Status status = pair.Real(bytes);
        std::string rule = pair.Reference(bytes);
        ASSERT_EQ(status.ok(), rule.empty())
            << "real: " << status.message() << ", reference: " << rule;
        if (status.ok()) {
            ASSERT_EQ(pair.ram, pair.real);
            taken++;
        } else {
            refused++;
        }
    }
    EXPECT_GT(refused, static_cast<size_t>(rounds / 15));
    EXPECT_GT(taken, static_cast<size_t>(rounds / 75));
}

} // namespace
} // namespace gang
