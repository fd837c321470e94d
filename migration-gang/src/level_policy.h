// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// How hard a channel should compress: it watches whether the channel waits for
// the link or for the CPU.

#ifndef GANG_LEVEL_POLICY_H
#define GANG_LEVEL_POLICY_H

#include <cstdint>

namespace gang {

// What the kernel says of a TCP connection; see struct tcp_info.  valid false:
// not a TCP socket, or not known.
struct LinkState {
    bool valid = false;
    uint64_t unsent = 0;      // bytes that were written and not sent yet
    uint64_t receiver_us = 0; // the receiver's window has been closed for, in all
    uint64_t acked = 0;       // bytes that have arrived, in all; 0: not known
};

// Not thread-safe; no clock of its own.  Steps: raw, zstd -5, 1, 3 and 5.  It
// begins with level 1, and soon sends a few packets raw: if some find what was
// before them unsent, the link is too slow for that, and level 1 it is for a while,
// however idle the link.  When all of these have left, windows of packets vote; some votes in a row
// for one direction move one step.  Raw packets are not given up while they arrive
// faster than compressed ones could be made: where both hosts are short of CPU, much
// is found unsent that no link holds up.  A move that had to be taken back is not made
// again for a while, each time for longer, so that between two steps, neither of
// which is right, there is no swinging.
class LevelPolicy {
  public:
    static constexpr int kRaw = 0;

    // One packet: `worked_ns` of CPU time made it, `waited_ns` passed since the
    // packet before it was made, most of it in sending that one.  `raw_bytes`
    // and `coded_bytes` are of its compressed payload (0, 0: it had none).  `link`
    // is as it was when the packet had been made and not been written: what is
    // unsent then is from the packets before, so the link is slower than we are.
    void Packet(uint64_t worked_ns, uint64_t waited_ns, uint64_t raw_bytes, uint64_t coded_bytes,
                const LinkState &link);
    // Before Packet(), if this one was compressed: so many bytes of pages, in so
    // long by the clock.
    void Compressed(uint64_t bytes, uint64_t ns);

    // Level for the next packet, in zstd's numbers; kRaw: do not compress.
    int level() const;
    // The link takes raw pages: then what costs CPU time does not pay.
    bool fast_link() const { return !trying_ && kLevels[step_] == kRaw; }

  private:
    static constexpr int kLevels[] = {kRaw, -5, 1, 3, 5};
    static constexpr int kTop = 4, kFirst = 2;
    static constexpr uint64_t kWindowNs = 50'000'000;
    static constexpr uint64_t kMinPackets = 4;
    // Going below level 1 costs bytes that others could send: not for a moment's load.
    static constexpr int kVotes = 3, kVotesBelow = 10, kVotesFromRaw = 2;
    static constexpr uint64_t kHold = 64, kMaxHold = 512; // windows
    // Of packets that are compressed, and of raw ones, which are larger.
    static constexpr uint64_t kBehindBytes = 32 << 10, kBehindRawBytes = 128 << 10;
    static constexpr uint64_t kProbeBytes = 1 << 20;
    static constexpr uint64_t kProbeAfter = 4, kMaxProbeAfter = 64; // packets

    // Packets with something to compress, before the link is tried with so many bytes;
    // it is slow if so many packets find it behind, or so many bytes, all in all.
    // What a channel has in its socket then is gone, at the latest, when so many times as
    // much has arrived: level 1 adds to it meanwhile.
    static constexpr uint64_t kTrialShare = 4;
    static constexpr uint64_t kClearly = 3; // times as fast
    static constexpr uint64_t kBegin = 3, kTryBytes = 2 << 20, kSlow = 3, kSlowBytes = 1 << 20;

    void Try(uint64_t ns, uint64_t raw_bytes, const LinkState &link);
    void Reconsider(uint64_t ns, const LinkState &link);
    bool RawIsFaster(uint64_t acked, uint64_t ns) const;
    bool Behind(const LinkState &link) const;
    void Decide(const LinkState &link);
    void Vote(int direction);
    void Hold(int up);

    int step_ = kFirst;
    bool trying_ = true;
    uint64_t begun_ = 0, tried_bytes_ = 0, tries_behind_ = 0, tried_unsent_ = 0, tried_ns_ = 0;
    uint64_t try_acked_ = 0; // when the first raw packet was made
    uint64_t tried_until_ = 0; // acked: until then what is unsent may be the trial's
    uint64_t backlog_ = 0, backlog_ns_ = 0; // what the trial left unsent, and its age
    uint64_t compress_until_ = 0; // windows_: the trial has found the link slow
    uint64_t made_bytes_ = 0, made_ns_ = 0; // of compressed packets, the older the less
    uint64_t worked_ = 0, waited_ = 0, packets_ = 0; // of this window
    uint64_t raw_ = 0, coded_ = 0;
    uint64_t behind_ = 0, known_ = 0; // packets that found something unsent; that could tell
    LinkState last_;
    int votes_ = 0, last_move_ = -1; // it began low
    uint64_t windows_ = 0;
    uint64_t hold_until_[2] = {0, 0}, hold_[2] = {kHold, kHold}; // moves down, up
    uint64_t incompressible_ = 0; // packets to send raw before zstd is tried again
    uint64_t probe_after_ = kProbeAfter;
};

} // namespace gang

#endif
