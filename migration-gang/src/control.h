// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The client's end of the coordinator's socket (docs/control-protocol.md), for
// the QEMU member and for gangctl.
//
//   member at the source                  member at the destination
//   --------------------                  -------------------------
//   Connect, Hello                        Connect, Hello
//   JoinSource         (returns at once)  JoinDestination -> StoreGrant
//   PollDirectory ...  -> DirectoryGrant  ... the migration runs ...
//   Scanned                               Leave
//   PollStart ...
//   ... the migration runs ...
//   Leave
//
// gangd may be stopped or killed at any moment: no call takes longer than the
// timeout it was given, none raises SIGPIPE, and a coordinator that went away is
// Code::kUnavailable, which a member that has its directory may ignore
// (invariant 4).

#ifndef GANG_CONTROL_H
#define GANG_CONTROL_H

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "layout.h"
#include "status.h"

namespace gang {

enum class Received {
    kMessage, // one message is in *message, its descriptor (or -1) in *fd
    kTimeout, // nothing came in time; ask again
    kHangup,  // gangd closed the connection or died
    kError,   // what came is no message of this protocol; see last_error()
};

// What a source member says when it joins; from `store` to `filled` as the
// destination's greeting said.
struct SourceJoin {
    std::string gang;
    std::string member;
    uint32_t members = 0; // of the whole gang
    Uuid store{};
    Seed seed{};
    HashKind hash_kind = HashKind::kXxh3_128;
    uint64_t slots = 0;
    uint64_t filled = 0;    // of them, before this attempt
    uint64_t ram_pages = 0; // of this member
    uint32_t channels = 0;
    const char *policy = nullptr; // SwitchoverPolicyName(); nullptr: independent
};

// What a member says when it joins, and when it joins again (as "rejoin-source", with more).
nlohmann::json SourceJoinMessage(const SourceJoin &join);

struct DirectoryGrant {
    int fd = -1;        // sealed memfd of the directory; the caller's to close
    int board_fd = -1;  // sealed memfd of the board; -1: the gang has none
    uint32_t board_index = 0;
    uint32_t index = 0; // this member's record
    uint32_t joined = 0;
    uint32_t missing = 0;
    std::string absent; // names of the missing, for people; empty: not known
};

// What "set" says of a gang; see the protocol.
struct GangOrder {
    std::optional<uint64_t> max_bandwidth; // bytes/s; 0: no limit
    std::optional<uint64_t> bulk_members;  // 0: all
    std::optional<uint64_t> turn_ms;       // 0: no turns
    std::vector<std::string> expect;       // member names
};

struct StoreGrant {
    int fd = -1; // sealed memfd of the store; the caller's to close
    uint64_t slots = 0;
};

enum class LeaveResult {
    kCompleted,
    kFailed,
    kCancelled
};

// One connection.  Used by one thread at a time; the destructor closes it, which
// gangd takes for the death of a member that has not called Leave().
class ControlClient {
  public:
    // kUnavailable: nobody listens at `path`; the message says what to do.
    static Status Connect(const std::string &path, int timeout_ms,
                          std::unique_ptr<ControlClient> *out);
    ~ControlClient();
    ControlClient(const ControlClient &) = delete;
    ControlClient &operator=(const ControlClient &) = delete;

    // For poll(): readable when an answer or a hang-up waits.
    int fd() const { return fd_; }

    // --- messages
    // `descriptor` goes along, and stays the caller's; -1: none.
    Status Send(const nlohmann::json &message, int timeout_ms, int descriptor = -1);
    // timeout_ms 0 does not wait.  `fd` may be nullptr: a descriptor that comes
    // uninvited is closed.  An {"error": ...} is a message like others.
    Received Receive(nlohmann::json *message, int *fd, int timeout_ms);
    // Why Receive() returned kHangup or kError.
    const Status &last_error() const { return last_error_; }
    // Whether gangd closed the connection, or ended.
    bool gone() const { return gone_; }

    // --- requests; errors that gangd answers come back as Status
    // `client` names the program.  With `member` the layout of shared memory is
    // agreed on, without it the connection may only ask for the status.
    Status Hello(const std::string &client, bool member, int timeout_ms);
    // Only says it: the answer is read by Receive(), or passed over by what waits for another.
    Status SendHello(const std::string &client, bool member, int timeout_ms);
    // Sends the join; the directory comes when the gang is complete.
    Status JoinSource(const SourceJoin &join, int timeout_ms);
    // *ready says whether the directory has come.  The board comes before it.
    Status PollDirectory(DirectoryGrant *grant, bool *ready, int timeout_ms);
    Status Scanned(int timeout_ms);
    // *ready says whether all members have scanned, or were waited for enough.
    Status PollStart(bool *ready, int timeout_ms);
    // `hash_kind`: that the store must have; kInvalid: any.
    Status JoinDestination(const std::string &gang, const std::string &member, StoreGrant *grant,
                           int timeout_ms, HashKind hash_kind = HashKind::kInvalid);
    // A word of farewell that waits for nobody: what does not fit the socket's
    // buffer at once is not said.
    Status Leave(LeaveResult result);
    // Of a gang that leaves this host, or is about to.
    Status SetOrder(const std::string &gang, const GangOrder &order, int timeout_ms);
    // All pages of gangd's status in one: {"gangd", "pid", "gangs": [...]}.
    Status QueryStatus(nlohmann::json *status, int timeout_ms);
    // Drops what is kept of gang `gang`, or of all (""); *stores says how much.
    Status Forget(const std::string &gang, uint64_t *stores, int timeout_ms);

  private:
    ControlClient(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
    Received Fail(Received outcome, Code code, const std::string &what);
    // Waits for the answer `op` (or `or_op`); *ready is false when none came in time.
    Status Expect(const char *op, nlohmann::json *message, int *fd, bool *ready, int timeout_ms,
                  const char *or_op = nullptr);
    Status Unanswered(const char *request) const;

    int fd_;
    std::string path_;
    Status last_error_;
    bool gone_ = false;
    bool hello_said_ = false; // and not answered yet
};

} // namespace gang

#endif
