// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A second decoder, written from docs/wire-format.md alone and as plainly as
// possible; the tests run it beside the real one.
//
// It shares no code with migration-gang/: a mistake there must not be repeated
// here.  Slow, copies everything, checks everything.

#ifndef GANG_TESTS_REFERENCE_DECODER_H
#define GANG_TESTS_REFERENCE_DECODER_H

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace gang::reference {

using Bytes = std::vector<uint8_t>;

// What the document calls a violation; the message names the rule.
struct Violation : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Hash128 {
    uint64_t low = 0, high = 0;
    bool operator==(const Hash128 &) const = default;
};

// The destination's store: the greeting's numbers and the slots that are filled.
struct ReferenceStore {
    struct Slot {
        Bytes page;
        Hash128 hash;
    };

    ReferenceStore(uint64_t slot_count, const uint8_t seed[16], uint32_t hash_kind = 1);
    Hash128 HashPage(const Bytes &page) const;
    Hash128 Digest(const std::vector<Hash128> &hashes) const; // high: its second half, or 0
    uint32_t Check(const Bytes &metadata, const Bytes &compressed) const;

    uint64_t slot_count;
    uint32_t kind; // as in the greeting
    Bytes key, secret;
    std::map<uint64_t, Slot> slots;
};

// RAMBlocks of one VM by id.
using Ram = std::map<std::string, Bytes>;

// One multifd channel at the destination.
class ReferenceDecoder {
  public:
    ReferenceDecoder(ReferenceStore *store, Ram *ram);
    ~ReferenceDecoder();

    // Applies one whole packet.  Returns the number to acknowledge.
    // Throws Violation; the channel is of no use then.
    uint32_t Apply(const Bytes &packet);

  private:
    enum Kind {
        kZero = 1,
        kLiteral = 2,
        kPublished = 3,
        kReferenced = 4,
        kPatched = 5,
        kPatchedPublished = 6,
        kDelta = 7,
        kDeltaPublished = 8,
        kScattered = 9
    };
    struct Page {
        Kind kind;
        uint64_t number;
        uint64_t slot;
        bool own; // the base is the page itself
        uint64_t base;
        std::vector<bool> mask;
    };
    struct Inflater;

    std::vector<Page> Descriptions(const Bytes &metadata, size_t pages);
    Bytes Stream(uint8_t encoding, const Bytes &stream, size_t size);
    Bytes Delta(const Bytes &frame, const Bytes &prefix, size_t size);
    Bytes FromStore(uint64_t slot, Hash128 *hash) const;

    ReferenceStore *store_;
    Ram *ram_;
    std::unique_ptr<Inflater> inflater_;
    bool named_ = false; // a RAMBlock has been named on this channel
    std::string block_;
    uint64_t next_page_ = 0;
    uint64_t next_published_slot_ = 0;
    uint64_t next_referenced_slot_ = 0;
    uint64_t next_base_slot_ = 0;
    uint32_t last_number_ = 0;
};

} // namespace gang::reference

#endif
