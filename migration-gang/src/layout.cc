// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The layout's signature: FNV-1a over everything two builds must agree on.

#include "layout.h"

#include "board.h"

namespace gang {

uint64_t LayoutSignature() {
    static constexpr uint64_t kFacts[] = {
        kLayoutVersion,
        kPageSize,
        kMaxMembers,
        kMaxChannels,
        kChunkSlots,
        kEntriesPerBucket,
        kMaxProbes,
        kFeatures,
        kFeatureWays,
        kStats,
        sizeof(SegmentHeader),
        sizeof(DirectoryHeader),
        offsetof(DirectoryHeader, store_uuid),
        offsetof(DirectoryHeader, seed),
        offsetof(DirectoryHeader, hash_kind),
        offsetof(DirectoryHeader, page_size),
        offsetof(DirectoryHeader, max_members),
        offsetof(DirectoryHeader, max_channels),
        offsetof(DirectoryHeader, buckets),
        offsetof(DirectoryHeader, slots),
        offsetof(DirectoryHeader, chunks),
        offsetof(DirectoryHeader, members_off),
        offsetof(DirectoryHeader, chunks_off),
        offsetof(DirectoryHeader, buckets_off),
        offsetof(DirectoryHeader, features_off),
        offsetof(DirectoryHeader, feature_sets),
        offsetof(DirectoryHeader, mirrored_off),
        offsetof(DirectoryHeader, mirror_off),
        offsetof(DirectoryHeader, mirror_pages),
        offsetof(DirectoryHeader, mirror_used),
        offsetof(DirectoryHeader, inventory_asker),
        offsetof(DirectoryHeader, next_chunk),
        offsetof(DirectoryHeader, entries_used),
        sizeof(MemberRecord),
        offsetof(MemberRecord, pid),
        offsetof(MemberRecord, acked),
        offsetof(MemberRecord, stats),
        sizeof(Entry),
        offsetof(Entry, hash_hi),
        offsetof(Entry, claim),
        offsetof(Entry, seen),
        offsetof(Entry, literal),
        sizeof(Bucket),
        sizeof(StoreHeader),
        offsetof(StoreHeader, uuid),
        offsetof(StoreHeader, seed),
        offsetof(StoreHeader, hash_kind),
        offsetof(StoreHeader, page_size),
        offsetof(StoreHeader, slots),
        offsetof(StoreHeader, meta_off),
        offsetof(StoreHeader, data_off),
        offsetof(StoreHeader, open_slots),
        offsetof(StoreHeader, generation),
        offsetof(StoreHeader, slots_used),
        offsetof(StoreHeader, saved),
        sizeof(BoardHeader),
        offsetof(BoardHeader, max_members),
        offsetof(BoardHeader, members_off),
        offsetof(BoardHeader, budget),
        offsetof(BoardHeader, paid_until),
        offsetof(BoardHeader, turn),
        offsetof(BoardHeader, turn_ms),
        offsetof(BoardHeader, bulk_limit),
        offsetof(BoardHeader, policy),
        offsetof(BoardHeader, spare),
        offsetof(BoardHeader, bulk),
        sizeof(BoardRecord),
        offsetof(BoardRecord, pid),
        offsetof(BoardRecord, heartbeat),
        offsetof(BoardRecord, remaining),
        offsetof(BoardRecord, priority),
        offsetof(BoardRecord, stage),
        offsetof(BoardRecord, flags),
        offsetof(BoardRecord, lost_turns),
        offsetof(BoardRecord, turn_wish),
        offsetof(BoardRecord, sent),
        offsetof(BoardRecord, policy),
        offsetof(BoardRecord, turns),
        offsetof(BoardRecord, spare),
        sizeof(SlotMeta),
        offsetof(SlotMeta, hash_lo),
        offsetof(SlotMeta, hash_hi),
        static_cast<uint64_t>(Stat::kRound),
        static_cast<uint64_t>(Stat::kProgress),
        static_cast<uint64_t>(Stat::kLeftMs),
        static_cast<uint64_t>(HashKind::kXxh3_128),
        static_cast<uint64_t>(HashKind::kSha256),
    };
    uint64_t h = 0xcbf29ce484222325ULL;
    for (uint64_t fact : kFacts) {
        for (int i = 0; i < 8; i++) {
            h = (h ^ ((fact >> (8 * i)) & 0xff)) * 0x100000001b3ULL;
        }
    }
    return h;
}

} // namespace gang
