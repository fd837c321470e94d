// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One VM of a gang with one multifd channel, both of its ends in this process:
// packets go from encoder to decoder when the test says so, and so do the
// acknowledgements.

#ifndef GANG_TEST_VM_H
#define GANG_TEST_VM_H

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "testing.h"

namespace gang::test {

inline const EncoderOptions kRaw{PayloadEncoding::kRaw, 1};
inline const EncoderOptions kZstd{PayloadEncoding::kZstd, 1};

class TestVm {
  public:
    // `directory` may be null: a member without coordinator.
    TestVm(Gang &gang, Directory *directory, size_t pages, const EncoderOptions &options,
           StallWatch *stalls = nullptr, uint32_t channel = 0)
        : source(pages), destination(pages), member(gang.AddMember()), directory_(directory),
          channel_(channel) {
        EncoderOptions seeded = options;
        seeded.seed = gang.store->seed();
        seeded.hash_kind = gang.store->hash_kind();
        Must(Encoder::Create(directory, stalls, member, channel, seeded, &encoder));
        Must(Decoder::Create(gang.store.get(), &decoder));
    }
    TestVm(Gang &gang, size_t pages, const EncoderOptions &options)
        : TestVm(gang, gang.directory.get(), pages, options) {}

    // Fills the source's pages with contents by number (testing.h).
    void Fill(const std::vector<uint64_t> &contents) {
        for (size_t i = 0; i < contents.size(); i++) {
            FillPage(source.page(i), contents[i]);
        }
    }
    // What the scan does.
    void Scan() {
        for (size_t i = 0; i < source.pages(); i++) {
            if (!IsZero(source.page(i), kPageSize) &&
                !directory_->Count(directory_->hasher()(source.page(i), kPageSize)) &&
                directory_->has_mirror()) {
                directory_->CountFeatures(FeaturesOf(source.page(i)));
            }
        }
    }
    // One packet of the pages numbered; empty when all were deferred.
    Bytes Encode(const std::vector<size_t> &pages, bool defer = true, IsZeroFn is_zero = IsZero) {
        std::vector<uint64_t> offsets;
        for (size_t page : pages) {
            offsets.push_back(page * kPageSize);
        }
        Must(encoder->Encode(block.c_str(), Cookie(), source.data(), offsets.data(), offsets.size(),
                             is_zero, defer ? &deferred : nullptr, &packet));
        return Flatten(packet);
    }
    Bytes EncodeAll(bool defer = true) {
        std::vector<size_t> all(source.pages());
        for (size_t i = 0; i < all.size(); i++) {
            all[i] = i;
        }
        return Encode(all, defer);
    }
    // Applies at the destination; the acknowledgement stays under way.
    Status Deliver(const Bytes &bytes) {
        return bytes.empty() ? Status::Ok() : Apply(decoder.get(), bytes, destination, &to_ack);
    }
    void Ack() { directory_->SetAcked(member, channel_, to_ack); }
    Status Send(const Bytes &bytes) {
        Status status = Deliver(bytes);
        if (status.ok()) {
            Ack();
        }
        return status;
    }
    // Kinds of the packet that was delivered last, a letter a page: zero, literal,
    // published, reference, patched (T: and published), delta (D: and published).
    std::string Kinds() const {
        std::string kinds;
        for (const Decoder::Page &page : decoder->pages()) {
            kinds += "?zlprtTdD"[static_cast<size_t>(page.kind)];
        }
        return kinds;
    }
    // One for each RAMBlock.
    void *Cookie() { return &cookies_[block]; }
    bool Identical() const {
        return memcmp(source.data(), destination.data(), source.bytes()) == 0;
    }

    GuestMemory source, destination;
    uint32_t member;
    std::string block = "pc.ram";
    std::unique_ptr<Encoder> encoder;
    std::unique_ptr<Decoder> decoder;
    EncodedPacket packet;
    std::vector<Deferred> deferred;
    uint32_t to_ack = 0;

  private:
    static void Must(const Status &status) {
        if (!status.ok()) {
            throw std::runtime_error(status.message());
        }
    }

    Directory *directory_;
    uint32_t channel_;
    std::map<std::string, char> cookies_;
};

} // namespace gang::test

#endif
