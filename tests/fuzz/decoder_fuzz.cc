// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A channel's stream from a hostile source: no access outside guest memory and
// store (guard pages and sanitizers watch), the pages others published stay as
// they are, and the reference decoder is of the same opinion about each packet.
//
// First byte, bit 0: constant fields, packet numbers and checksums are put right,
// so that the fuzzer need not guess them; bit 1: a gang by SHA-256.  Then packets.

#include <cstring>

#include "fuzz_store.h"
#include "reference_decoder.h"

using namespace gang;
using namespace gang::fuzz;

namespace {

void Repair(uint8_t *header, uint32_t number) {
    PacketHeader any;
    any.number = number;
    uint8_t right[kPacketHeaderSize];
    StorePacketHeader(any, right);
    memcpy(header, right, 12);          // multifd's part
    header[18] = right[18];             // format version
    header[19] &= 1;                    // encoding
    memcpy(header + 20, right + 20, 4); // number
    header[32] &= 3;                    // pages
    memset(header + 34, 0, 2);
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const uint64_t choice = input.Number(1);
    const bool repair = choice & 1;
    const HashKind kind = KindOf(choice);

    test::Fd fd;
    std::unique_ptr<Store> store = MakeStore(kind, true, &fd);
    static const reference::ReferenceStore kEmpty[] = {
        {kSlots, kSeed.data(), static_cast<uint32_t>(KindOf(0))},
        {kSlots, kSeed.data(), static_cast<uint32_t>(KindOf(2))}};
    reference::ReferenceStore reference_store = kEmpty[kind == HashKind::kSha256];
    for (uint32_t slot = 0; slot < kFilled; slot++) {
        reference::Bytes page(kPageSize);
        test::FillPage(page.data(), 100 + slot);
        reference_store.slots[slot] = {page, reference_store.HashPage(page)};
    }
    test::GuestMemory memory(2 * kPages); // RAMBlocks "a" and "b"
    reference::Ram ram = {{"a", reference::Bytes(kPages * kPageSize)},
                          {"b", reference::Bytes(kPages * kPageSize)}};
    std::unique_ptr<Decoder> decoder;
    Check(Decoder::Create(store.get(), &decoder).ok(), "a decoder can be made");
    reference::ReferenceDecoder reference(&reference_store, &ram);

    for (uint32_t number = 1; input.left() >= kPacketHeaderSize; number++) {
        const uint8_t *start = input.Take(kPacketHeaderSize);
        test::Bytes packet(start, start + kPacketHeaderSize);
        if (repair) {
            Repair(packet.data(), number);
        }
        PacketHeader header;
        size_t rest = 0;
        if (ParsePacketHeader(packet.data(), &header).ok()) {
            rest = std::min<size_t>(input.left(), header.metadata_size + header.payload_size);
        }
        const uint8_t *p = input.Take(rest);
        packet.insert(packet.end(), p, p + rest);
        if (repair) {
            test::FixCheck(&packet, store->hasher());
        }

        uint32_t ack = 0, reference_ack = 0;
        Status status = test::Apply(
            decoder.get(), packet,
            [&](const std::string &id) {
                bool b = id == "b";
                return id == "a" || b ? test::BlockAt{memory.page(b * kPages), kPages * kPageSize}
                                      : test::BlockAt{};
            },
            &ack);
        std::string violation;
        try {
            reference_ack = reference.Apply(packet);
        } catch (const reference::Violation &v) {
            violation = v.what();
        }
        if (status.ok() != violation.empty()) {
            fprintf(stderr, "decoder: \"%s\", reference: \"%s\"\n", status.message().c_str(),
                    violation.c_str());
        }
        Check(status.ok() == violation.empty(), "both decoders agree");
        if (!status.ok()) {
            break; // the channel is of no use any more
        }
        Check(ack == reference_ack && ack == header.number, "the acknowledgement is the number");
        Check(memcmp(ram["a"].data(), memory.page(0), kPages * kPageSize) == 0 &&
                  memcmp(ram["b"].data(), memory.page(kPages), kPages * kPageSize) == 0,
              "both decoders write the same memory");
    }

    alignas(64) uint8_t page[kPageSize], expected[kPageSize];
    Hash hash;
    for (uint32_t slot = 0; slot < kFilled; slot++) {
        test::FillPage(expected, 100 + slot);
        Check(store->Get(slot, page, &hash).ok() && memcmp(page, expected, kPageSize) == 0,
              "what others published stays");
    }
    return 0;
}
