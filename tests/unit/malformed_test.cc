// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Packets made by hand, each with one violation of docs/wire-format.md; every
// one has a sound neighbour that is accepted, so that the violation is what is
// refused (invariant 5).

#include <zstd.h>

#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

constexpr uint64_t kSlots = 256;
constexpr uint64_t kPages = 64; // of the RAMBlock

struct PageRun {
    unsigned kind;
    uint64_t length, page, slot = 0;
};

class Malformed : public testing::Test {
  protected:
    Malformed() : gang_(kSlots, 256), memory_(kPages) {
        alignas(64) uint8_t page[kPageSize];
        for (uint32_t slot = 0; slot < 4; slot++) {
            FillPage(page, 100 + slot);
            EXPECT_TRUE(gang_.store->Put(slot, page, &stored_[slot]).ok());
        }
    }

    static void Guess(Bytes *out, uint64_t value, uint64_t *next, uint64_t length) {
        uint8_t bytes[10];
        uint8_t *end = PutVarint(bytes, ZigZag(static_cast<int64_t>(value - *next)));
        out->insert(out->end(), bytes, end);
        *next = value + length;
    }
    // The descriptions of a channel's first packet.
    static Bytes Describe(const std::vector<PageRun> &runs, const std::string &id = "ram") {
        Bytes out;
        out.reserve(id.size() + 64 * runs.size());
        out.push_back(static_cast<uint8_t>(id.size()));
        out.insert(out.end(), id.begin(), id.end());
        uint64_t next_page = 0, next_slot[2] = {0, 0};
        for (const PageRun &run : runs) {
            out.push_back(
                static_cast<uint8_t>(run.kind | (std::min<uint64_t>(run.length, 16) - 1) << 4));
            if (run.length >= 16) {
                uint8_t bytes[10];
                out.insert(out.end(), bytes, PutVarint(bytes, run.length - 16));
            }
            Guess(&out, run.page, &next_page, run.length);
            if (run.kind == 3 || run.kind == 4) {
                Guess(&out, run.slot, &next_slot[run.kind - 3], run.length);
            }
        }
        return out;
    }
    // The first packet of a new channel.
    Status Try(const Bytes &metadata, uint16_t pages, const Bytes &payload = {},
               uint64_t digest = 0, PayloadEncoding encoding = PayloadEncoding::kRaw) {
        number_ = 0;
        EXPECT_TRUE(Decoder::Create(gang_.store.get(), &decoder_).ok());
        return Next(metadata, pages, payload, digest, encoding);
    }
    // The next one of the same channel, after a good one.
    Status Next(const Bytes &metadata, uint16_t pages, const Bytes &payload = {},
                uint64_t digest = 0, PayloadEncoding encoding = PayloadEncoding::kRaw) {
        PacketHeader h;
        h.metadata_size = static_cast<uint16_t>(metadata.size());
        h.payload_size = static_cast<uint32_t>(payload.size());
        h.pages = pages;
        h.encoding = encoding;
        h.number = ++number_;
        h.digest = digest;
        const bool zstd = encoding == PayloadEncoding::kZstd;
        h.check = gang_.store->hasher().Check(metadata.data(), metadata.size(), payload.data(),
                                              zstd ? payload.size() : 0);
        Bytes packet(kPacketHeaderSize);
        StorePacketHeader(h, packet.data());
        packet.insert(packet.end(), metadata.begin(), metadata.end());
        packet.insert(packet.end(), payload.begin(), payload.end());
        uint32_t ack;
        return Apply(decoder_.get(), packet, memory_, &ack);
    }
    uint64_t Digest(const std::vector<Hash> &hashes) const {
        return gang_.store->hasher().Digest(hashes.data(), hashes.size());
    }
    static Bytes Pages(size_t count, uint64_t content = 1) {
        Bytes bytes(count * kPageSize);
        for (size_t i = 0; i < count; i++) {
            FillPage(bytes.data() + i * kPageSize, content);
        }
        return bytes;
    }
    static Bytes Zstd(const Bytes &plain, ZSTD_EndDirective end, int window_log = 0) {
        ZSTD_CCtx *c = ZSTD_createCCtx();
        if (window_log) {
            ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, window_log);
        }
        Bytes out(ZSTD_compressBound(plain.size()) + 512);
        ZSTD_inBuffer in = {plain.data(), plain.size(), 0};
        ZSTD_outBuffer to = {out.data(), out.size(), 0};
        EXPECT_EQ(ZSTD_compressStream2(c, &to, &in, end), 0u);
        ZSTD_freeCCtx(c);
        out.resize(to.pos);
        return out;
    }

    Gang gang_;
    GuestMemory memory_;
    std::unique_ptr<Decoder> decoder_;
    Hash stored_[4];
    uint32_t number_ = 0;
};

#define ACCEPTED(...) EXPECT_EQ((__VA_ARGS__).message(), "")
#define REFUSED(...) EXPECT_FALSE((__VA_ARGS__).ok())

TEST_F(Malformed, Invariant5_PagesOutsideTheRamBlockAreRefused) {
    ACCEPTED(Try(Describe({{1, 1, kPages - 1}}), 1));
    ACCEPTED(Try(Describe({{1, kPages, 0}}), kPages));
    for (uint64_t page : {kPages, kPages + 1, uint64_t{1} << 32, uint64_t{1} << 52,
                          (uint64_t{1} << 52) - 1, UINT64_MAX, UINT64_MAX - 1, uint64_t{1} << 63}) {
        REFUSED(Try(Describe({{1, 1, page}}), 1)) << page;
        REFUSED(Try(Describe({{2, 1, page}}), 1, Pages(1))) << page;
        REFUSED(Try(Describe({{4, 1, page, 0}}), 1, {}, Digest({stored_[0]}))) << page;
    }
    REFUSED(Try(Describe({{1, 2, kPages - 1}}), 2));
    REFUSED(Try(Describe({{1, kPages + 1, 0}}), kPages + 1));
    REFUSED(Try(Describe({{1, 3, UINT64_MAX - 1}}), 3)) << "a run around 2^64";
}

TEST_F(Malformed, Invariant5_SlotsOutsideTheStoreAreRefused) {
    ACCEPTED(Try(Describe({{4, 4, 0, 0}}), 4, {},
                 Digest({stored_[0], stored_[1], stored_[2], stored_[3]})));
    for (uint64_t slot :
         {kSlots, kSlots + 1, uint64_t{1} << 32, UINT64_MAX, UINT64_MAX - 1, uint64_t{1} << 63}) {
        REFUSED(Try(Describe({{4, 1, 0, slot}}), 1, {}, Digest({stored_[0]}))) << slot;
        REFUSED(Try(Describe({{3, 1, 0, slot}}), 1, Pages(1))) << slot;
        REFUSED(Try(Describe({{4, 2, 0, slot - 1}}), 2, {}, Digest({stored_[0]}))) << slot;
    }
}

TEST_F(Malformed, Invariant2_ReferencesToEmptySlotsAreRefused) {
    ACCEPTED(Try(Describe({{4, 1, 0, 3}}), 1, {}, Digest({stored_[3]})));
    REFUSED(Try(Describe({{4, 1, 0, 4}}), 1, {}, Digest({stored_[3]})));
}

TEST_F(Malformed, Invariant3_AReferenceToOtherContentThanMeantIsRefused) {
    REFUSED(Try(Describe({{4, 1, 0, 2}}), 1, {}, Digest({stored_[3]})));
}

TEST_F(Malformed, Invariant3_ReferencesInAnotherOrderAreRefused) {
    ACCEPTED(Try(Describe({{4, 1, 0, 0}, {4, 1, 1, 1}}), 2, {}, Digest({stored_[0], stored_[1]})));
    REFUSED(Try(Describe({{4, 1, 0, 1}, {4, 1, 1, 0}}), 2, {}, Digest({stored_[0], stored_[1]})));
}

TEST_F(Malformed, Invariant3_PublishedPagesDoNotReplaceOthers) {
    Bytes page = Pages(1, 55);
    Hash hash = gang_.store->hasher()(page.data(), kPageSize);
    REFUSED(Try(Describe({{3, 1, 0, 3}}), 1, page, Digest({hash})));
    alignas(64) uint8_t out[kPageSize];
    Hash got;
    GANG_OK(gang_.store->Get(3, out, &got));
    EXPECT_EQ(got, stored_[3]);
    ACCEPTED(Try(Describe({{3, 1, 0, 4}}), 1, page, Digest({hash})));
    REFUSED(Try(Describe({{3, 1, 0, 4}}), 1, page, Digest({hash}))) << "a slot twice";
}

TEST_F(Malformed, Invariant3_ADigestWithoutSharedPagesOrTheReverseIsRefused) {
    ACCEPTED(Try(Describe({{1, 1, 0}}), 1));
    REFUSED(Try(Describe({{1, 1, 0}}), 1, {}, 1));
    REFUSED(Try(Describe({{4, 1, 0, 0}}), 1, {}, 0));
}

TEST_F(Malformed, UnknownKindsOfPagesAreRefused) {
    for (unsigned kind : {0u, 10u, 11u, 15u}) {
        REFUSED(Try(Describe({{kind, 1, 0}}), 1)) << kind;
    }
}

TEST_F(Malformed, CountsThatDisagreeAreRefused) {
    ACCEPTED(Try(Describe({{1, 2, 0}}), 2));
    REFUSED(Try(Describe({{1, 2, 0}}), 1));
    REFUSED(Try(Describe({{1, 2, 0}}), 3));
    REFUSED(Try(Describe({{1, 1, 0}, {1, 1, 1}}), 1));
    Bytes huge = {3, 'r', 'a', 'm', 0xf1};
    uint8_t bytes[10];
    huge.insert(huge.end(), bytes, PutVarint(bytes, UINT64_MAX));
    huge.push_back(0);
    REFUSED(Try(huge, 1024)) << "a run of 2^64 + 15";
    Bytes cut = Describe({{1, 2, 0}});
    cut.pop_back();
    REFUSED(Try(cut, 2)) << "a description that ends early";
    Bytes more = Describe({{1, 2, 0}});
    more.push_back(1);
    REFUSED(Try(more, 2)) << "a tag without a page";
}

TEST_F(Malformed, RamBlockNamesThatAreNoneAreRefused) {
    REFUSED(Try({0, 1, 0}, 1)) << "none named yet";
    REFUSED(Try({4, 'r', 'a', 0, 'm', 1, 0}, 1)) << "a NUL inside";
    REFUSED(Try({200, 'r', 'a', 'm', 1, 0}, 1)) << "longer than the metadata";
    REFUSED(Try({4, 'r', 'a', 'm', 's'}, 1)) << "nothing after it";
    ACCEPTED(Try({3, 'r', 'a', 'm', 1, 0}, 1));
    ACCEPTED(Next({0, 1, 0}, 1));
}

TEST_F(Malformed, PayloadsOfTheWrongSizeAreRefused) {
    ACCEPTED(Try(Describe({{2, 2, 0}}), 2, Pages(2)));
    for (size_t size : {0u, 1u, 4096u, 8191u, 8193u, 9000u}) {
        Bytes payload = Pages(3);
        payload.resize(size);
        REFUSED(Try(Describe({{2, 2, 0}}), 2, payload)) << size;
    }
    REFUSED(Try(Describe({{1, 1, 0}}), 1, Pages(1))) << "a payload nobody needs";
}

TEST_F(Malformed, ZstdPayloadsThatAreNotExactlyThePagesAreRefused) {
    const PayloadEncoding zstd = PayloadEncoding::kZstd;
    const Bytes two = Describe({{2, 2, 0}});
    ACCEPTED(Try(two, 2, Zstd(Pages(2), ZSTD_e_flush), 0, zstd));
    REFUSED(Try(two, 2, Zstd(Pages(2), ZSTD_e_end), 0, zstd)) << "the frame ends";
    REFUSED(Try(two, 2, Zstd(Pages(1), ZSTD_e_flush), 0, zstd)) << "too little";
    REFUSED(Try(two, 2, Zstd(Pages(3), ZSTD_e_flush), 0, zstd)) << "too much";
    Bytes much = Pages(3);
    much.resize(2 * kPageSize + 1);
    REFUSED(Try(two, 2, Zstd(much, ZSTD_e_flush), 0, zstd)) << "one byte too much";
    REFUSED(Try(two, 2, {}, 0, zstd)) << "nothing";
    REFUSED(Try(two, 2, Pages(1), 0, zstd)) << "no zstd";
    REFUSED(Try(two, 2, Zstd(Pages(2), ZSTD_e_flush, 26), 0, zstd)) << "a window over 2^25";
    ACCEPTED(Try(two, 2, Zstd(Pages(2), ZSTD_e_flush, 25), 0, zstd));
    REFUSED(Try(Describe({{1, 1, 0}}), 1, Zstd(Pages(1), ZSTD_e_flush), 0, zstd)) << "no page";
}

} // namespace
} // namespace gang
