// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// One client's socket: whole messages in, a bounded queue of messages out.

#ifndef GANGD_CONNECTION_H
#define GANGD_CONNECTION_H

#include <cstdint>
#include <deque>
#include <string>

#include <nlohmann/json.hpp>

#include "access.h"
#include "coordinator.h"

namespace gangd {

// What one client may do in a time.
struct Pace {
    unsigned max_requests; // in a second
    unsigned hello_ms;     // to say hello
    unsigned idle_ms;      // without a request; a member may be silent
};

// Runs on GLib's default main context; never blocks.  A client that breaks a
// limit is told why if it listens and then dropped: it reads and writes nothing
// any more, and its owner forgets it from the main loop, never inside a call
// that may still use it.
class Connection : public Peer {
  public:
    class Owner {
      public:
        virtual ~Owner() = default;
        // `fd` is the owner's to close; -1: none came, or none was to be taken.
        virtual void OnMessage(Connection *connection, const std::string &text, int fd) = 0;
        // Whether a descriptor that comes with this message is taken.
        virtual bool TakesDescriptor(Connection *connection, const std::string &text) = 0;
        // A descriptor, or -1, whose message is not looked at: to be closed.
        virtual void OnUnread(int fd) = 0;
        // The connection has been dropped; delete it, but later.
        virtual void OnDropped(Connection *connection) = 0;
    };

    // Takes over `fd`, which does not block.  Drops a client that does not keep
    // to `pace`.
    Connection(Owner *owner, int fd, const PeerIdentity &peer, const Pace &pace);
    ~Connection() override;
    Connection(const Connection &) = delete;
    Connection &operator=(const Connection &) = delete;

    void Send(const nlohmann::json &message, int fd) override;
    void Drop() override;
    uid_t uid() const override { return peer_.uid; }
    // Tells why, and logs it.
    void Refuse(const Refusal &why);

    bool dropped() const { return dropped_; }
    uint64_t pid() const { return static_cast<uint64_t>(peer_.pid); }
    const PeerIdentity &peer() const { return peer_; }

    // What the protocol has seen of it.
    bool greeted = false;  // said hello
    bool may_join = false; // with our layout
    bool has_joined = false;
    bool has_left = false; // since then; it joins no more

  private:
    struct Message {
        std::string text;
        int fd;
    };

    void OnReadable();
    // As recv(); takes one descriptor along if the owner wants it.
    ssize_t ReceiveMessage(std::string *text, int *fd);
    // One message; false when there is no more to read for now.
    bool Read();
    bool Overdone();
    bool is_member() const { return has_joined && !has_left; }
    // Gives the client `ms` to say the next thing, or be told why it is dropped.
    void ExpectWithin(unsigned ms);
    void Flush();
    void RemoveSources();

    Owner *const owner_;
    const int fd_;
    const PeerIdentity peer_;
    const Pace pace_;
    bool dropped_ = false;
    bool was_reset_ = false;
    unsigned read_source_ = 0;
    unsigned write_source_ = 0;
    unsigned patience_source_ = 0;
    int64_t second_ = 0; // the one that requests_ counts in
    unsigned requests_ = 0;
    std::deque<Message> queue_;
};

} // namespace gangd

#endif
