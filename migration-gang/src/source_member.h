// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One VM's membership of a gang at the source: from the destination's greeting
// over the coordinator's barriers to the last page.

#ifndef GANG_SOURCE_MEMBER_H
#define GANG_SOURCE_MEMBER_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "board.h"
#include "control.h"
#include "control_keeper.h"
#include "directory.h"
#include "encoder.h"
#include "pacer.h"
#include "status.h"
#include "switchover.h"
#include "wire.h"

namespace gang {

struct SourceMemberConfig {
    std::string socket, gang, member;
    uint32_t members = 1;
    uint32_t channels = 1;
    uint64_t ram_pages = 0;
    EncoderOptions encoder;
    uint64_t cache_bytes = 0; // for pages' last versions; 0: no deltas against them
    uint32_t priority = 0;   // in the bulk phase; the higher, the earlier
    uint64_t max_bandwidth = 0; // of the whole gang, bytes/s; 0: as it is
    HashKind hash_kind = HashKind::kInvalid; // that the destination must have; kInvalid: any
    SwitchoverPolicy policy = SwitchoverPolicy::kIndependent;
};

// The way of a member:
//
//   kGreeting --greeting--> kJoin --directory--> kScan --ScanDone--> kBarrier --start--> kRun
//                             |                                         |
//                             +--- coordinator gone: kRun without ------+--- gone: kRun with it
//
// A coordinator that comes back within some seconds is joined again before that; in kRun
// it is told what there is (control_keeper.h), at any time.
// If the store was kept from an attempt before, kInventory comes before kRun, until
// it is known what the store holds; whoever asks its destination, and whoever else has
// the directory, goes on scanning meanwhile.
//
// Thread-safety: each method says who calls it; different callers may run at
// the same time.
class SourceMember {
  public:
    enum class Step { kWait, kScan, kRun };

    static Status Create(const SourceMemberConfig &config, std::unique_ptr<SourceMember> *out);
    ~SourceMember();

    // Return-path thread.
    Status ReturnMessage(const uint8_t *message, size_t size);
    // Any thread.
    bool greeted() const { return greeted_.load(std::memory_order_acquire); }
    // kInvalid before the greeting.  Any thread.
    HashKind hash_kind() const { return greeted() ? greeting_.hash_kind : HashKind::kInvalid; }

    // Migration thread: waits at most timeout_ms.
    Status Advance(int timeout_ms, Step *step);
    // Any number of scan threads.
    void Scan(const uint8_t *host, const uint64_t *offsets, size_t count, IsZeroFn is_zero);
    // Migration thread.
    void ScanDone();
    // Whether this member is to ask its destination what the store holds.  Migration
    // thread, from time to time until Step::kRun.
    bool WantsInventory();

    // Channel threads, one each.  The socket, which stays the caller's, is only asked
    // what the link does.
    void SetSocket(uint32_t channel, int socket);
    Status Encode(uint32_t channel, const char *id, void *block, const uint8_t *host,
                  const uint64_t *offsets, size_t count, IsZeroFn is_zero, EncodedPacket *packet);

    // Migration thread.
    void set_defer(bool on) { defer_.store(on, std::memory_order_relaxed); }
    uint64_t DeferredReady();
    uint64_t TakeDeferred(bool all, void (*take)(void *, void *, uint64_t), void *opaque);
    void SetProgress(bool switchover, uint64_t remaining_pages, uint64_t round);
    // Of this member, for status only; nothing before the directory has come.
    void SetFigure(Stat figure, uint64_t value);
    // When to send.  Without a board: always.  `state.in_flight` is filled in here.
    Pacer::Pace NextPace(Pacer::State state);
    // The turn and the place in the bulk phase go to others.
    void ReleaseTurn();
    // Of the whole gang, bytes/s; 0: no limit.  Any thread; false: there is no board yet,
    // to which it will be written when it comes.
    bool SetMaxBandwidth(uint64_t rate);
    // Main thread, when nobody else uses the object any more.
    void Leave(LeaveResult result);

    // Any thread.
    // Packets that the destination has not acknowledged.
    uint64_t in_flight() const;
    uint64_t deferred() const { return deferred_count_.load(std::memory_order_relaxed); }
    const char *phase() const { return phase_.load(std::memory_order_relaxed); }
    // nullptr until the directory has come, or without coordinator.
    const Directory *directory() const { return shared_.load(std::memory_order_acquire); }
    // nullptr without coordinator, or until the directory has come.
    Board *board() const { return board_shared_.load(std::memory_order_acquire); }
    // nullptr without a board, or where each member stops and leaves by itself.
    Switchover *switchover() const { return switchover_shared_.load(std::memory_order_acquire); }
    SwitchoverPolicy policy() const { return config_.policy; }
    uint32_t board_index() const { return grant_.board_index; } // valid with board()
    uint32_t index() const { return grant_.index; }     // valid with directory()
    uint32_t joined() const { return grant_.joined; }   // valid with directory()
    uint32_t missing() const { return grant_.missing; } // valid with directory()
    const std::string &absent() const { return grant_.absent; } // the same

  private:
    enum class State {
        kGreeting,
        kJoin,
        kScan,
        kBarrier,
        kInventory,
        kRun
    };

    struct Channel {
        std::atomic<uint32_t> sent{0};    // packets; the channel thread's
        std::atomic<uint32_t> acked{0};   // the return-path thread's
        std::unique_ptr<Encoder> encoder; // the channel thread's
        std::vector<Deferred> fresh;      // the channel thread's
        int socket = -1;                  // the channel thread's
        std::mutex mutex;                 // never held over I/O or encoding
        std::vector<Deferred> deferred;   // guarded by mutex
    };

    explicit SourceMember(const SourceMemberConfig &config)
        : config_(config), cache_(config.cache_bytes), channels_(config.channels) {
        if (config.max_bandwidth) {
            wanted_rate_ = config.max_bandwidth;
        }
    }
    SourceJoin Announcement() const;
    Status Join();
    bool JoinAgain(int timeout_ms);
    void Run();
    Status TakeInventory(const uint8_t *message, size_t size);
    bool AwaitInventory(int timeout_ms);
    Status OpenDirectory();
    void OpenBoard();
    Status CheckPolicy() const;
    void Beat();
    void SetPhase(Phase phase, const char *name);
    void Observe();

    const SourceMemberConfig config_;
    std::unique_ptr<ControlClient> control_; // migration thread's
    uint64_t lost_ms_ = 0;                   // when it went away before the directory came
    uint64_t tried_ms_ = 0;
    State state_ = State::kGreeting;         // migration thread's

    std::mutex mutex_; // guards greeting_ against the return-path thread
    std::condition_variable greeting_came_;
    Greeting greeting_;
    std::atomic<bool> greeted_{false};

    DirectoryGrant grant_;
    std::unique_ptr<Directory> directory_;      // set before kRun, then constant
    std::atomic<Directory *> shared_{nullptr};  // the same, for other threads
    std::unique_ptr<Board> board_;              // as directory_
    std::atomic<Board *> board_shared_{nullptr};
    std::mutex rate_mutex_;                  // guards wanted_rate_; never held for long
    std::optional<uint64_t> wanted_rate_;    // of the gang; nothing: as it is
    std::unique_ptr<Switchover> switchover_; // as directory_
    std::atomic<Switchover *> switchover_shared_{nullptr};
    std::unique_ptr<Pacer> pacer_;              // migration thread's
    // Has control_ from kRun on, where there is a directory, whose descriptor it borrows,
    // and the board's.
    std::unique_ptr<ControlKeeper> keeper_;
    std::unique_ptr<StallWatch> stalls_;
    uint64_t last_observed_ms_ = 0;
    // What the store holds: asked for by the migration thread, told to the return-path
    // thread, which alone uses told_.
    std::atomic<bool> asked_{false};
    bool has_asked_ = false; // ever
    uint64_t told_ = 0;
    uint64_t entries_ = 0, entries_since_ms_ = 0; // while waiting for it
    uint64_t inventory_since_ms_ = 0;

    PageCache cache_;
    std::atomic<bool> resending_{false};
    std::vector<Channel> channels_;
    std::atomic<uint64_t> deferred_count_{0};
    std::atomic<bool> defer_{true};
    std::atomic<const char *> phase_{"greeting"};
};

} // namespace gang

#endif
