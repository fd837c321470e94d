// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The bytes of the two shared-memory segments: the directory (source host) and
// the store (destination host).
//
// Rules that every structure here obeys:
//  - no pointers, only indices and offsets, each checked before use;
//  - every word that more than one process writes is a lock-free atomic, and
//    every state change is one store or one compare-and-swap of one word, so
//    that a process killed between any two instructions leaves a usable
//    segment (DESIGN.md, invariant 5);
//  - the segment starts with a magic, a version and a signature over all sizes
//    and offsets: builds with another layout refuse each other.

#ifndef GANG_LAYOUT_H
#define GANG_LAYOUT_H

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "atomic.h"

namespace gang {

inline constexpr uint32_t kPageSize = 4096;
inline constexpr uint32_t kMaxMembers = 128;  // joins in one directory's life
inline constexpr uint32_t kMaxChannels = 64;  // multifd channels of one member
inline constexpr uint32_t kChunkSlots = 64;   // slots a channel takes at once
inline constexpr uint32_t kLayoutVersion = 2;
inline constexpr uint32_t kEntriesPerBucket = 2;
inline constexpr uint32_t kMaxProbes = 8;     // buckets looked at, then "full"
inline constexpr uint32_t kFeatures = 2;       // of a page; see page_features.h
inline constexpr uint32_t kFeatureWays = 8;    // words of a feature's set: one cache line

using Uuid = std::array<uint8_t, 16>;
using Seed = std::array<uint8_t, 16>;

// What names a content; the numbers travel in the greeting.  From the weakest to
// the strongest.
enum class HashKind : uint32_t { kInvalid = 0, kXxh3_128 = 1, kSha256 = 2 };

constexpr bool IsKnown(HashKind kind) {
    return kind == HashKind::kXxh3_128 || kind == HashKind::kSha256;
}

struct SegmentHeader {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t header_size;
    uint64_t layout_signature;
    uint64_t segment_size; // bytes, equals the sealed memfd's size
};
static_assert(sizeof(SegmentHeader) == 32);

inline constexpr uint64_t kDirectoryMagic = 0x31524944474e4147ULL; // "GANGDIR1"
inline constexpr uint64_t kStoreMagic = 0x31525453474e4147ULL;     // "GANGSTR1"

// ---------------------------------------------------------------- directory

enum class MemberState : uint32_t {
    kFree = 0,
    kAlive = 1,
    kLeft = 2, // ended by itself: completed, failed or cancelled
    kDead = 3, // its socket to gangd hung up without a word
};

// What a member is doing; shown by status, never used for decisions.
enum class Phase : uint32_t {
    kJoining = 0,
    kScanning = 1,
    kBarrier = 2,
    kMigrating = 3,
    kSwitchover = 4,
    kCompleted = 5,
    kFailed = 6,
};

// Counters of one member, written by its own process only (relaxed adds from
// several threads), read by gangd for status.  Pages are guest pages.
enum class Stat : uint32_t {
    kPhase = 0,        // a Phase
    kRamPages,         // pages of all migrated RAMBlocks
    kScannedPages,     // non-zero pages hashed so far by the scan
    kScanZeroPages,    // zero pages the scan saw
    kScanDuplicates,   // scanned pages whose content was in the directory already
    kZeroPages,        // sent as zero
    kLiteralPages,     // sent in full, not kept at the destination
    kPublishedPages,   // sent in full and kept in the store
    kReferencedPages,  // sent as a slot number
    kDeferredPages,    // put back, to be looked at again (may count a page often)
    kStalledPages,     // sent in full because the owner of the content stalled
    kStoreFullPages,   // sent in full because no slot was free
    kDirectoryFull,    // contents that found no entry
    kTakeovers,        // claims taken over from a member that died
    kPatchedPages,     // sent as another page's blocks and the blocks that differ
    kDeltaPages,       // sent compressed against similar pages
    kDeltaBytes,       // bytes of those on the wire, part of kPayloadBytes
    kOwnPages,         // patched and delta pages whose base was their own last version
    kCompressionLevel, // of the channel that changed it last; 0: raw
    kPayloadBytes,     // bytes of page content on the wire, after compression
    kMetadataBytes,    // bytes of headers and page descriptions on the wire
    kRemainingPages,   // dirty pages still to send, as QEMU estimates
    kRound,            // precopy round
    kHandledPages,     // sent in whatever form, again too
    kWireBytes,        // of the whole migration, as QEMU counts them
    kByteRate,         // of kWireBytes, a second
    kDirtyRate,        // bytes a second that the guest writes
    kProgress,         // 1/1000; never goes back
    kLeftMs,           // until the end; UINT64_MAX: cannot be told
    kMax = 32,
};
inline constexpr size_t kStats = static_cast<size_t>(Stat::kMax);

struct MemberRecord {
    Atomic<uint32_t> state; // MemberState; kFree -> kAlive by gangd
    Atomic<uint32_t> pid;
    // acked[c]: number of the last packet on channel c that the destination
    // says it has applied.  Written by this member.
    Atomic<uint32_t> acked[kMaxChannels];
    Atomic<uint64_t> stats[kStats];
    uint8_t reserved[56];
};
static_assert(sizeof(MemberRecord) == 576 && sizeof(MemberRecord) % 64 == 0);

// One content the gang knows of.  Filled in this order, each by one CAS from 0:
// hash_lo, hash_hi (by anyone who holds the same hash_lo: a process killed in
// between harms nobody), then claim.  Never removed while the directory lives.
struct Entry {
    Atomic<uint64_t> hash_lo; // 0: the entry is free
    Atomic<uint64_t> hash_hi; // 0: not yet complete
    // 0: nobody has published this content.  Otherwise
    //   bits 63..32  slot + 1
    //   bits 31..0   number of the packet (per member and channel) it is in; 0: the
    //                store held it before the directory was made, so it is confirmed
    // The owner is chunk_owner[slot / kChunkSlots].  Confirmed when
    // acked[owner.member][owner.channel] >= packet: that never becomes untrue.
    // Replaced (CAS) only while unconfirmed and its owner is not alive; or when an
    // owner that was taken for gone is acknowledged during a take-over: then both
    // slots hold the content (docs/crash-consistency.md).
    Atomic<uint64_t> claim;
    Atomic<uint32_t> seen;    // occurrences the scans counted (saturating use)
    Atomic<uint32_t> literal; // times it was sent in full without being kept
};
static_assert(sizeof(Entry) == 32);

struct alignas(64) Bucket {
    Entry entries[kEntriesPerBucket];
};
static_assert(sizeof(Bucket) == 64);

// A feature that pages of the gang have, and the page that stands for it:
//   bits 63..32  slot + 1 of the published page that others are coded against; 0: none yet
//   bits 31..8   part of the feature's hash, never 0; 0 in all of the word: free
//   bits  7..0   distinct contents the scans found with it, at most 255
// A hint: a lost or wrong word costs compression, nothing else.
using FeatureWord = uint64_t;

// chunk_owner word: 0 free, 1 << 31 | member << 8 | channel, or 1 << 30 | n: free but
// for its first n slots, which the store held before the directory was made.
struct DirectoryHeader {
    SegmentHeader segment;
    Uuid store_uuid;
    Seed seed;
    uint32_t hash_kind;
    uint32_t page_size;
    uint32_t max_members;
    uint32_t max_channels;
    uint64_t buckets;
    uint64_t slots;         // of the store that this gang may use
    uint64_t chunks;        // slots / kChunkSlots
    uint64_t members_off;   // MemberRecord[max_members]
    uint64_t chunks_off;    // atomic<uint32_t>[chunks]
    uint64_t buckets_off;   // Bucket[buckets]
    uint64_t features_off;  // atomic<FeatureWord>[feature_sets * kFeatureWays]
    uint64_t feature_sets;
    // The mirror: what is in some of the store's slots, for deltas.  mirrored[slot]
    // is the number of the packet that published the slot, written once, after the
    // page at mirror_off + slot * page_size; 0: not mirrored.  Sparse: only pages
    // that are written take memory.
    uint64_t mirrored_off; // atomic<uint32_t>[chunks * kChunkSlots]
    uint64_t mirror_off;   // page aligned; 0: there is no mirror
    uint64_t mirror_pages; // that may be written
    // What the store holds already, told by the destination of one member: 0 nobody has
    // asked it, else the asker's number + 1.  Replaced (CAS) when the asker is gone.
    Atomic<uint64_t> inventory_asker;
    uint8_t reserved[16];
    // First chunk nobody has taken; kNoChunks until the inventory is complete.
    alignas(64) Atomic<uint64_t> next_chunk;
    alignas(64) Atomic<uint64_t> entries_used; // approximate, for status
    alignas(64) Atomic<uint64_t> mirror_used;  // pages written or about to be
};
static_assert(offsetof(DirectoryHeader, next_chunk) == 192);
static_assert(sizeof(DirectoryHeader) == 384);
inline constexpr uint64_t kNoChunks = uint64_t{1} << 63;

// ------------------------------------------------------------------- store

struct SlotMeta {
    Atomic<uint64_t> state;   // 0 empty, kSlotValid once data and hash are in
    Atomic<uint64_t> hash_lo; // of the bytes in the slot, hashed there
    Atomic<uint64_t> hash_hi;
    uint64_t reserved;
};
static_assert(sizeof(SlotMeta) == 32);
inline constexpr uint64_t kSlotEmpty = 0;
inline constexpr uint64_t kSlotValid = 1;

struct StoreHeader {
    SegmentHeader segment;
    Uuid uuid;
    Seed seed;
    uint32_t hash_kind;
    uint32_t page_size;
    uint64_t slots;
    uint64_t meta_off; // SlotMeta[slots]
    uint64_t data_off; // slots * page_size bytes, page aligned
    // Sources choose slots below this one; the others are for what destinations save
    // when they fail.
    uint64_t open_slots;
    uint64_t generation; // how often it was kept for another attempt
    uint8_t reserved[16];
    alignas(64) Atomic<uint64_t> slots_used; // slots that became valid
    Atomic<uint64_t> saved; // slots from open_slots on that were taken to save pages in
};
static_assert(offsetof(StoreHeader, slots_used) == 128);
static_assert(sizeof(StoreHeader) == 192);

static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(Atomic<uint64_t>) == 8);
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(Atomic<uint32_t>) == 4);

// One number over every size and offset above and the protocol limits; two
// builds that disagree on any of them get different numbers.
uint64_t LayoutSignature();

} // namespace gang

#endif
