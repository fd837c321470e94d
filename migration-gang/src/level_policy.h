// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// How hard a channel should compress: it watches whether the channel waits for
// the link or for the CPU.

#ifndef GANG_LEVEL_POLICY_H
#define GANG_LEVEL_POLICY_H

#include <cstdint>

namespace gang {

// What the kernel says of a TCP connection since it was opened, in us; see
// struct tcp_info.  valid false: not a TCP socket, or not known.
struct LinkTimes {
    bool valid = false;
    uint64_t busy = 0;     // something was under way
    uint64_t receiver = 0; // ... but the receiver's window was closed
};

// Not thread-safe; no clock of its own.  Steps: raw, zstd -5, 1, 3 and 5.  A
// window of packets decides on one step up or down; a step that proved wrong is
// not tried again for a while, each time for longer.
class LevelPolicy {
  public:
    static constexpr int kRaw = 0;

    // One packet: `worked_ns` of CPU time made it, `waited_ns` passed since the
    // packet before it was made, most of it in sending that one.  `raw_bytes`
    // and `coded_bytes` are of its compressed payload (0, 0: it had none).
    void Packet(uint64_t worked_ns, uint64_t waited_ns, uint64_t raw_bytes, uint64_t coded_bytes,
                const LinkTimes &link);

    // Level for the next packet, in zstd's numbers; kRaw: do not compress.
    int level() const;
    // Whether LinkTimes are wanted for the next Packet(): they cost a system call.
    bool window_ends() const { return worked_ + waited_ >= kWindowNs; }

  private:
    static constexpr int kLevels[] = {kRaw, -5, 1, 3, 5};
    static constexpr int kTop = 4, kFirst = 2;
    static constexpr uint64_t kWindowNs = 100'000'000;
    static constexpr uint64_t kMinPackets = 8;
    static constexpr uint64_t kProbeEvery = 64; // packets that do not compress

    void Decide(const LinkTimes &link);
    void Move(int step);

    int step_ = kFirst;
    uint64_t worked_ = 0, waited_ = 0, packets_ = 0; // of this window
    uint64_t raw_ = 0, coded_ = 0;
    LinkTimes last_;
    int last_move_ = 0;
    uint64_t windows_ = 0, hold_until_ = 0, hold_ = 1;
    uint64_t incompressible_ = 0; // packets to send raw before zstd is tried again
};

} // namespace gang

#endif
