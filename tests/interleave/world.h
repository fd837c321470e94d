// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A gang's shared memory on both hosts, and what must hold of it after every
// single access: the proof obligations of docs/crash-consistency.md.

#ifndef GANG_WORLD_H
#define GANG_WORLD_H

#include <sys/uio.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "directory.h"
#include "execution.h"
#include "store.h"
#include "testing.h"

namespace gang::interleave {

// What a page may hold.  The directory's hash is the case's choice, so that hashes
// can be made to collide; the store has its own.
struct Content {
    Hash hash;
    Features features{};
    uint32_t seen = 0; // times it was counted before the case begins
};

class World : public Watcher {
  public:
    struct Config {
        uint32_t members = 2;
        uint32_t channels = 1;
        uint64_t slots = 1024;
        uint64_t mirror_pages = 0;
        std::vector<Content> contents;
        // A member may be acknowledged after it has left or was taken for dead: then a
        // claim that was taken over may turn out to be confirmed.
        bool late_acks = false;
        bool claims_may_move = true; // by that, and by nothing else
        bool store_steps = false;    // accesses to the store are steps of their own
        bool stat_steps = false;     // those to counters are
    };
    explicit World(const Config &config);
    ~World() override;

    // The start: members are alive, nothing but Content::seen is known.
    void Reset();
    // After all actors have ended: what must hold in the end, and whether another
    // member gets on in what they have left.
    void CheckEnd();

    // A member's process, its destination's, gangd's.
    uint32_t source(uint32_t member) const { return member; }
    uint32_t destination(uint32_t member) const { return config_.members + member; }
    uint32_t gangd() const { return 2 * config_.members; }

    const uint8_t *page(size_t content) const { return pages_.page(content); }
    // What the page taken from a slot or its mirror must be.
    void CheckPage(const uint8_t *page, size_t content, const std::string &what);
    // A reference or base may be sent now.
    void CheckReference(uint32_t slot, size_t content);
    void CheckBase(uint32_t slot);
    // The destination has applied one more packet of the channel.
    void Applied(uint32_t member, uint32_t channel) { applied_[member][channel]++; }
    uint32_t applied(uint32_t member, uint32_t channel) { return applied_[member][channel]; }
    // Count() is about to be called, has returned.
    void Counting() { counts_begun_++; }
    void Counted() { counts_done_++; }
    void Decided() { decisions_++; }

    // Instead of pwrite(2) and pwritev(2): in two steps.
    ssize_t Write(bool store, int fd, const iovec *iov, int count, uint64_t offset);

    // Watcher
    void Changed(const void *word, uint64_t before, uint64_t now) override;
    bool Visible(const void *word) const override;
    std::string Name(const void *word) const override;

    const Config &config() const { return config_; }
    Execution &execution() { return execution_; }
    Directory &directory() { return *gang_.directory; }
    Store &store() { return *gang_.store; }
    static World *current();

  private:
    enum class Field {
        kOther,
        kState,
        kPid,
        kAcked,
        kStat,
        kChunkOwner,
        kLo,
        kHi,
        kClaim,
        kSeen,
        kLiteral,
        kFeature,
        kMirrored,
        kMirror,
        kNextChunk,
        kEntriesUsed,
        kMirrorUsed,
        kSlotState,
        kSlotHash,
        kSlotsUsed,
        kSlotData,
    };
    struct Place {
        Field field;
        uint64_t index; // of member, entry, slot...
        uint64_t part;  // channel, counter
    };
    Place Locate(const void *word) const;
    Entry &entry(uint64_t index) const;
    MemberRecord &member(uint64_t index) const;
    int ContentOf(uint64_t lo, uint64_t hi) const;
    bool Alive(uint32_t m) const;
    void ClaimChanged(uint64_t index, uint64_t before, uint64_t now);
    void CheckEntries(bool whole);
    void CheckNewcomer();
    void Fail(const std::string &what) { execution_.Fail(what); }

    Config config_;
    test::Gang gang_;
    Execution execution_;
    test::GuestMemory pages_;
    uintptr_t store_mapping_;  // the store's own
    uint8_t *directory_bytes_; // mappings of our own
    uint8_t *store_bytes_;
    uint64_t directory_size_, store_size_, store_data_;
    // What has happened so far; follows from what the actors have seen.
    std::map<uint32_t, int> claimed_;  // slot -> content
    std::map<uint32_t, bool> written_; // slots that the destination began to write
    std::set<uint64_t> touched_;       // entries that are in use
    uint32_t applied_[4][4] = {};
    uint64_t counts_begun_ = 0, counts_done_ = 0, decisions_ = 0;
};

} // namespace gang::interleave

#endif
