// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Encoding and applying packets.  Targets: encode of all-duplicate pages and
// apply of references, each >= 2 GB/s a core.

#include "bench_memory.h"
#include "decoder.h"
#include "encoder.h"

namespace gang::bench {
namespace {

constexpr size_t kPacket = 128; // QEMU's default: 512 KiB a packet

// A gang whose member 0 has published all of DistinctPages(), confirmed.
class SharedPages {
  public:
    explicit SharedPages(benchmark::State &state, HashKind kind)
        : memory(DistinctPages()), offsets(memory.offsets()),
          gang(memory.pages() + kChunkSlots, 4 * memory.pages(), 0, kind), packets(memory.pages() / kPacket) {
        publisher = gang.AddMember();
        member = gang.AddMember();
        for (int i = 0; i < 2; i++) {
            for (size_t p = 0; p < memory.pages(); p++) {
                gang.directory->Count(gang.directory->hasher()(memory.page(p), kPageSize));
            }
        }
        std::unique_ptr<Encoder> encoder;
        std::unique_ptr<Decoder> decoder;
        test::GuestMemory target(memory.pages());
        ok = !Failed(state, Encoder::Create(gang.directory.get(), nullptr, publisher, 0,
                                            {PayloadEncoding::kRaw, 1}, &encoder)) &&
             !Failed(state, Decoder::Create(gang.store.get(), &decoder));
        for (size_t i = 0; ok && i < packets; i++) {
            EncodedPacket packet;
            ok = !Failed(state, Encode(encoder.get(), i, &packet));
            uint32_t ack = 0;
            ok = ok && !Failed(state, test::Apply(decoder.get(), test::Flatten(packet), target, &ack));
            gang.directory->SetAcked(publisher, 0, ack);
        }
    }
    Status Encode(Encoder *encoder, size_t packet_index, EncodedPacket *packet) {
        return encoder->Encode("pc.ram", nullptr, memory.data(),
                               offsets.data() + packet_index * kPacket, kPacket, IsZero, &deferred,
                               packet);
    }

    const test::GuestMemory &memory;
    std::vector<uint64_t> offsets;
    test::Gang gang;
    size_t packets;
    uint32_t publisher = 0, member = 0;
    std::vector<Deferred> deferred;
    bool ok = false;
};

void EncodeDuplicates(benchmark::State &state, HashKind kind) {
    SharedPages shared(state, kind);
    std::unique_ptr<Encoder> encoder;
    if (!shared.ok || Failed(state, Encoder::Create(shared.gang.directory.get(), nullptr,
                                                    shared.member, 0, {}, &encoder))) {
        return;
    }
    size_t i = 0;
    for (auto _ : state) {
        EncodedPacket packet;
        if (Failed(state, shared.Encode(encoder.get(), i, &packet)) || packet.payload_size) {
            state.SkipWithError("a page was no duplicate");
            return;
        }
        i = i + 1 == shared.packets ? 0 : i + 1;
    }
    state.SetBytesProcessed(state.iterations() * int64_t{kPacket * kPageSize});
}
void BM_EncodeDuplicates(benchmark::State &state) { EncodeDuplicates(state, HashKind::kXxh3_128); }
void BM_EncodeDuplicatesSha256(benchmark::State &state) {
    EncodeDuplicates(state, HashKind::kSha256);
}
BENCHMARK(BM_EncodeDuplicates);
BENCHMARK(BM_EncodeDuplicatesSha256);

void ApplyReferences(benchmark::State &state, HashKind kind) {
    SharedPages shared(state, kind);
    std::unique_ptr<Encoder> encoder;
    std::unique_ptr<Decoder> decoder;
    if (!shared.ok ||
        Failed(state, Encoder::Create(shared.gang.directory.get(), nullptr, shared.member, 0, {},
                                      &encoder))) {
        return;
    }
    std::vector<test::Bytes> packets;
    for (size_t i = 0; i < shared.packets; i++) {
        EncodedPacket packet;
        if (Failed(state, shared.Encode(encoder.get(), i, &packet)) || packet.payload_size) {
            state.SkipWithError("a page was no duplicate");
            return;
        }
        packets.push_back(test::Flatten(packet));
    }
    test::GuestMemory target(shared.memory.pages());
    memset(target.data(), 1, target.bytes());
    size_t i = 0;
    for (auto _ : state) {
        if (i == 0) { // packets are numbered: a new channel for each pass
            state.PauseTiming();
            Status status = Decoder::Create(shared.gang.store.get(), &decoder);
            state.ResumeTiming();
            if (Failed(state, status)) {
                return;
            }
        }
        const test::Bytes &bytes = packets[i];
        Status status = decoder->ParseHeader(bytes.data());
        if (status.ok()) {
            status = decoder->ParseMetadata(bytes.data() + kPacketHeaderSize,
                                            decoder->metadata_size());
        }
        if (status.ok()) {
            status = decoder->Bind({target.data(), target.bytes()});
        }
        if (status.ok()) {
            status = decoder->Finish();
        }
        if (Failed(state, status)) {
            return;
        }
        i = i + 1 == packets.size() ? 0 : i + 1;
    }
    state.SetBytesProcessed(state.iterations() * int64_t{kPacket * kPageSize});
}
void BM_ApplyReferences(benchmark::State &state) { ApplyReferences(state, HashKind::kXxh3_128); }
void BM_ApplyReferencesSha256(benchmark::State &state) {
    ApplyReferences(state, HashKind::kSha256);
}
BENCHMARK(BM_ApplyReferences);
BENCHMARK(BM_ApplyReferencesSha256);

// Pages that nobody else has: raw, and zstd at its level.
void BM_EncodeLiterals(benchmark::State &state) {
    const test::GuestMemory &memory = DistinctPages();
    const std::vector<uint64_t> offsets = memory.offsets();
    const int level = static_cast<int>(state.range(0));
    test::Gang gang(kChunkSlots, memory.pages());
    std::unique_ptr<Encoder> encoder;
    const EncoderOptions options = {level ? PayloadEncoding::kZstd : PayloadEncoding::kRaw, level};
    if (Failed(state, Encoder::Create(gang.directory.get(), nullptr, gang.AddMember(), 0, options,
                                      &encoder))) {
        return;
    }
    std::vector<Deferred> deferred;
    size_t i = 0;
    for (auto _ : state) {
        EncodedPacket packet;
        if (Failed(state, encoder->Encode("pc.ram", nullptr, memory.data(),
                                          offsets.data() + i * kPacket, kPacket, IsZero, &deferred,
                                          &packet))) {
            return;
        }
        i = i + 1 == memory.pages() / kPacket ? 0 : i + 1;
    }
    state.SetBytesProcessed(state.iterations() * int64_t{kPacket * kPageSize});
}
BENCHMARK(BM_EncodeLiterals)->Arg(0)->Arg(1);

} // namespace
} // namespace gang::bench
