// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One VM's membership of a gang at the destination: the store and a decoder a
// channel.

#ifndef GANG_DESTINATION_MEMBER_H
#define GANG_DESTINATION_MEMBER_H

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "control_keeper.h"
#include "decoder.h"
#include "kept.h"
#include "status.h"
#include "store.h"
#include "wire.h"

namespace gang {

class DestinationMember {
  public:
    struct Counters {
        std::atomic<uint64_t> zero{0}, literal{0}, published{0}, referenced{0}, patched{0}, delta{0};
        std::atomic<uint64_t> payload_bytes{0}, metadata_bytes{0};
    };

    // Waits at most 5 s for gangd and its store.
    // `hash_kind`: that the store must have; kInvalid: any.
    static Status Create(const std::string &socket, const std::string &gang,
                         const std::string &member, HashKind hash_kind,
                         std::unique_ptr<DestinationMember> *out);

    Greeting greeting() const;
    // The channel's decoder, made when first asked for; nullptr: no such
    // channel.  Each channel is one thread's.
    Decoder *channel(uint32_t channel);
    // Counts a packet that was applied.  Any thread.
    void Count(const Decoder &decoder);
    // What a kept store holds, for the source; one thread.  0: the end has been told.
    size_t Inventory(uint8_t out[kMaxReturnMessage]) { return teller_->Next(out); }
    // See Saver; main thread, when no channel runs any more, or the process ends.
    bool Save(const uint8_t *host, const uint64_t *offsets, size_t count,
              bool (*is_zero)(const void *page, size_t size));
    // Main thread, when nobody else uses the object any more.
    void Leave(LeaveResult result) { keeper_->Leave(result); }

    const Store &store() const { return *store_; }
    const Counters &counters() const { return counters_; }

  private:
    DestinationMember() = default;

    std::unique_ptr<Store> store_;
    std::unique_ptr<ControlKeeper> keeper_; // lends the store's descriptor
    std::unique_ptr<Teller> teller_;
    std::unique_ptr<Saver> saver_; // made when it is needed
    std::array<std::unique_ptr<Decoder>, kMaxChannels> channels_;
    Counters counters_;
};

} // namespace gang

#endif
