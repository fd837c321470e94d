// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The fixed-size parts of the wire format and its numbers, against the bytes
// that docs/wire-format.md gives.

#include "wire.h"

#include <gtest/gtest.h>

#include <vector>

namespace gang {
namespace {

PacketHeader SomeHeader() {
    PacketHeader h;
    h.payload_size = 0x00010203;
    h.metadata_size = 0x0405;
    h.pages = 0x0100;
    h.encoding = PayloadEncoding::kZstd;
    h.number = 0x0a0b0c0d;
    h.check = 0x21222324;
    h.digest = 0x1112131415161718;
    h.delta_size = 0x0102;
    return h;
}

TEST(PacketHeader, HasTheBytesOfTheDocument) {
    const std::vector<uint8_t> expected = {
        0x11, 0x22, 0x33, 0x44, 0,    0,    0,    1,    0, 0, 0, 6, // multifd's part
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 1,    1,                // sizes, version, encoding
        0x0a, 0x0b, 0x0c, 0x0d,                                     // number
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,             // digest
        0x01, 0x00, 0,    0,    0x21, 0x22, 0x23, 0x24,             // pages, check
        0x00, 0x00, 0x01, 0x02};                                    // delta size
    std::vector<uint8_t> out(kPacketHeaderSize, 0xff);
    StorePacketHeader(SomeHeader(), out.data());
    EXPECT_EQ(out, expected);
}

TEST(PacketHeader, ComesBackAsWritten) {
    uint8_t bytes[kPacketHeaderSize];
    StorePacketHeader(SomeHeader(), bytes);
    PacketHeader h;
    ASSERT_TRUE(ParsePacketHeader(bytes, &h).ok());
    EXPECT_EQ(h.payload_size, 0x00010203u);
    EXPECT_EQ(h.metadata_size, 0x0405);
    EXPECT_EQ(h.pages, 0x0100);
    EXPECT_EQ(h.encoding, PayloadEncoding::kZstd);
    EXPECT_EQ(h.number, 0x0a0b0c0du);
    EXPECT_EQ(h.check, 0x21222324u);
    EXPECT_EQ(h.digest, 0x1112131415161718u);
    EXPECT_EQ(h.delta_size, 0x0102u);
}

// Offsets at which no other value than the written one is a gang packet.
TEST(PacketHeader, Invariant5_EveryConstantByteIsChecked) {
    uint8_t good[kPacketHeaderSize];
    StorePacketHeader(SomeHeader(), good);
    std::vector<size_t> constant = {18};
    for (size_t i = 0; i < 12; i++) {
        constant.push_back(i);
    }
    for (size_t i = 34; i < 36; i++) {
        constant.push_back(i);
    }
    for (size_t at : constant) {
        for (int bit = 0; bit < 8; bit++) {
            uint8_t bad[kPacketHeaderSize];
            memcpy(bad, good, sizeof(bad));
            bad[at] ^= static_cast<uint8_t>(1 << bit);
            PacketHeader h;
            EXPECT_FALSE(ParsePacketHeader(bad, &h).ok()) << "byte " << at << " bit " << bit;
        }
    }
}

TEST(PacketHeader, AnotherFormatVersionIsCalledIncompatible) {
    uint8_t bytes[kPacketHeaderSize];
    StorePacketHeader(SomeHeader(), bytes);
    for (uint8_t version : {0, 2, 255}) {
        bytes[18] = version;
        PacketHeader h;
        EXPECT_EQ(ParsePacketHeader(bytes, &h).code(), Code::kIncompatible);
    }
}

TEST(PacketHeader, Invariant5_CountsAndSizesOutOfRangeAreRefused) {
    auto refused = [](auto change) {
        PacketHeader h = SomeHeader();
        change(&h);
        uint8_t bytes[kPacketHeaderSize];
        StorePacketHeader(h, bytes);
        PacketHeader out;
        return !ParsePacketHeader(bytes, &out).ok();
    };
    EXPECT_FALSE(refused([](PacketHeader *) {}));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->number = 0; }));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->pages = 0; }));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->pages = 1025; }));
    EXPECT_FALSE(refused([](PacketHeader *h) { h->pages = 1024; }));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->metadata_size = 0; }));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->metadata_size = 1; }));
    EXPECT_FALSE(refused([](PacketHeader *h) { h->metadata_size = 2; }));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->metadata_size = UINT16_MAX; }));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->encoding = static_cast<PayloadEncoding>(2); }));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->payload_size = UINT32_MAX; }));
    EXPECT_FALSE(refused([](PacketHeader *h) { h->delta_size = h->payload_size; }));
    EXPECT_TRUE(refused([](PacketHeader *h) { h->delta_size = h->payload_size + 1; }));
}

Greeting SomeGreeting() {
    Greeting g;
    for (uint8_t i = 0; i < 16; i++) {
        g.store[i] = static_cast<uint8_t>(0x20 + i);
        g.seed[i] = static_cast<uint8_t>(0x40 + i);
    }
    g.slots = 0xfedcba98;
    return g;
}

TEST(Greeting, HasTheBytesOfTheDocument) {
    std::vector<uint8_t> expected = {0, 1, 0, 1, 0, 0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    for (uint8_t i = 0; i < 16; i++) {
        expected.push_back(static_cast<uint8_t>(0x20 + i));
    }
    for (uint8_t i = 0; i < 16; i++) {
        expected.push_back(static_cast<uint8_t>(0x40 + i));
    }
    expected.insert(expected.end(), {0, 0, 0, 0, 0xfe, 0xdc, 0xba, 0x98});
    std::vector<uint8_t> out(kGreetingSize, 0xff);
    StoreGreeting(SomeGreeting(), out.data());
    EXPECT_EQ(out, expected);

    Greeting g;
    ASSERT_TRUE(ParseGreeting(out.data(), out.size(), &g).ok());
    EXPECT_EQ(g.store, SomeGreeting().store);
    EXPECT_EQ(g.seed, SomeGreeting().seed);
    EXPECT_EQ(g.slots, 0xfedcba98u);
}

TEST(Greeting, AnotherVersionPageSizeOrHashIsCalledIncompatible) {
    for (size_t at : {size_t{2}, size_t{3}, size_t{4}, size_t{6}, size_t{8}, size_t{11}}) {
        uint8_t bytes[kGreetingSize];
        StoreGreeting(SomeGreeting(), bytes);
        bytes[at] ^= 0x02;
        Greeting g;
        EXPECT_EQ(ParseGreeting(bytes, sizeof(bytes), &g).code(), Code::kIncompatible) << at;
    }
}

// A later version's greeting may be longer; what has to be said is "version".
TEST(Greeting, AnotherVersionIsNamedEvenWhenItsSizeDiffers) {
    uint8_t bytes[64] = {0, 1, 0, 2};
    Greeting g;
    Status status = ParseGreeting(bytes, sizeof(bytes), &g);
    EXPECT_EQ(status.code(), Code::kIncompatible);
    EXPECT_NE(status.message().find("version 2"), std::string::npos);
}

TEST(Greeting, Invariant5_WrongSizesAndReservedBytesAreRefused) {
    uint8_t bytes[kGreetingSize + 1] = {};
    StoreGreeting(SomeGreeting(), bytes);
    Greeting g;
    for (size_t size = 0; size < sizeof(bytes); size++) {
        EXPECT_EQ(ParseGreeting(bytes, size, &g).ok(), size == kGreetingSize) << size;
    }
    EXPECT_FALSE(ParseGreeting(bytes, sizeof(bytes), &g).ok());
    for (bool fits : {true, false}) { // slots that are filled
        Greeting kept = SomeGreeting();
        kept.filled = static_cast<uint32_t>(kept.slots + (fits ? 0 : 1));
        StoreGreeting(kept, bytes);
        EXPECT_EQ(ParseGreeting(bytes, kGreetingSize, &g).ok(), fits);
        EXPECT_EQ(g.filled, kept.filled);
    }
    StoreGreeting(SomeGreeting(), bytes);
    bytes[51] = 1; // 2^32 slots
    EXPECT_FALSE(ParseGreeting(bytes, kGreetingSize, &g).ok());
}

TEST(Acknowledgement, HasTheBytesOfTheDocument) {
    std::vector<uint8_t> out(kAckSize, 0xff);
    StoreAck(0x0102, 0x03040506, out.data());
    EXPECT_EQ(out, (std::vector<uint8_t>{0, 2, 1, 2, 3, 4, 5, 6}));
    uint16_t channel;
    uint32_t packet;
    ASSERT_TRUE(ParseAck(out.data(), out.size(), &channel, &packet).ok());
    EXPECT_EQ(channel, 0x0102);
    EXPECT_EQ(packet, 0x03040506u);
    for (size_t size = 0; size < kAckSize; size++) {
        EXPECT_FALSE(ParseAck(out.data(), size, &channel, &packet).ok());
    }
}

TEST(ReturnMessage, TypeZeroAndUnknownTypesAreInvalid) {
    uint8_t bytes[2] = {0, 0};
    EXPECT_EQ(ReturnMessageType(bytes, 2), ReturnMessage::kInvalid);
    EXPECT_EQ(ReturnMessageType(bytes, 1), ReturnMessage::kInvalid);
    EXPECT_EQ(ReturnMessageType(bytes, 0), ReturnMessage::kInvalid);
    bytes[1] = 5;
    EXPECT_EQ(ReturnMessageType(bytes, 2), ReturnMessage::kInvalid);
    bytes[0] = bytes[1] = 1;
    EXPECT_EQ(ReturnMessageType(bytes, 2), ReturnMessage::kInvalid);
}

TEST(Varint, EveryNumberComesBackFromItsShortestForm) {
    std::vector<uint64_t> numbers = {0, 1, 127, 128, 300, UINT64_MAX, UINT64_MAX - 1};
    for (int bit = 0; bit < 64; bit++) {
        numbers.insert(numbers.end(), {(uint64_t{1} << bit) - 1, uint64_t{1} << bit});
    }
    for (uint64_t n : numbers) {
        uint8_t bytes[10];
        uint8_t *end = PutVarint(bytes, n);
        const uint8_t *p = bytes;
        uint64_t back;
        ASSERT_TRUE(GetVarint(&p, end, &back)) << n;
        EXPECT_EQ(back, n);
        EXPECT_EQ(p, end);
        const uint8_t *cut = bytes;
        EXPECT_FALSE(GetVarint(&cut, end - 1, &back)) << "cut short: " << n;
    }
}

TEST(Varint, Invariant5_LongerFormsAndMoreThan64BitsAreRefused) {
    auto refused = [](std::vector<uint8_t> bytes) {
        const uint8_t *p = bytes.data();
        uint64_t v;
        return !GetVarint(&p, p + bytes.size(), &v);
    };
    EXPECT_TRUE(refused({}));
    EXPECT_TRUE(refused({0x80}));
    EXPECT_TRUE(refused({0x80, 0x00}));
    EXPECT_TRUE(refused({0xff, 0x00}));
    EXPECT_FALSE(refused({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}));
    EXPECT_TRUE(refused({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}));
    EXPECT_TRUE(refused({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x00}));
}

TEST(ZigZag, SmallDistancesBecomeSmallNumbers) {
    EXPECT_EQ(ZigZag(0), 0u);
    EXPECT_EQ(ZigZag(-1), 1u);
    EXPECT_EQ(ZigZag(1), 2u);
    EXPECT_EQ(ZigZag(-2), 3u);
    for (int64_t v : {int64_t{0}, int64_t{-1}, INT64_MAX, INT64_MIN, int64_t{123456789}}) {
        EXPECT_EQ(UnZigZag(ZigZag(v)), v);
    }
}

} // namespace
} // namespace gang
