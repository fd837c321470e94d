// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What gangd knows: gangs, their members, and the shared memory made for them.
// No I/O but through Peer, no clock but the one it is given.

#ifndef GANGD_COORDINATOR_H
#define GANGD_COORDINATOR_H

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "board.h"
#include "directory.h"
#include "layout.h"
#include "pacer.h"
#include "store.h"
#include "switchover.h"

namespace gangd {

// One chunk of slots, the least that a source can use of a store.
inline constexpr uint64_t kMinStoreBytes =
    gang::kChunkSlots * (gang::kPageSize + sizeof(gang::SlotMeta));

struct Limits {
    uint64_t store_bytes = 0;      // capacity of one gang's store
    uint64_t store_total = 0;      // capacity of all stores together
    uint64_t mirror_bytes = 0;     // of pages an outgoing gang keeps for deltas; 0: no deltas
    uint64_t barrier_ms = 60000;   // how long members wait for each other
    uint64_t ready_ms = gang::kDefaultReadyMs;     // ... when they are near their end
    uint64_t stopped_ms = gang::kDefaultStoppedMs; // ... and with their VMs stopped
    uint64_t max_gangs = 64;       // of both roles together
    uint64_t max_user_gangs = 48;  // of those, of one user who is not root
    uint64_t max_member_pages = 0; // RAM one member, or one process, may claim
    uint64_t max_total_pages = UINT64_MAX; // RAM all outgoing members together may claim
    uint64_t turn_ms = 5000;       // that one member may have the link; 0: no turns
    uint64_t bulk_members = 0;     // of one gang in their first round; 0: all
    // How long the store of an incoming gang that failed is kept; 0: not at all.
    uint64_t keep_ms = 0;
    // In it, what members had in common; no page that only one VM had.
    bool keep_shared_only = false;
    // Each VM shares with itself only, whatever its gang.
    bool intra_vm = false;
    // Members of one gang may be of different users.
    bool across_users = false;
    // Of stores whose first member asks for none; a weaker one is refused.
    gang::HashKind hash_kind = gang::HashKind::kXxh3_128;
};

// A gang goes to one host; a second store is somebody's mistake, many are an attack.
inline constexpr size_t kMaxStoresOfGang = 16;

// Of the stores that are kept, as many as a message of status has room for.
inline constexpr size_t kMaxKeptShown = 64;

// The connection of one member, as the coordinator sees it.
class Peer {
  public:
    virtual ~Peer() = default;
    // Queues one message with an optional descriptor (-1: none), which is
    // duplicated.
    virtual void Send(const nlohmann::json &message, int fd) = 0;
    // Ends the connection, soon: HungUp() follows from the main loop.
    virtual void Drop() = 0;
    // As whom the kernel knows it.
    virtual uid_t uid() const { return 0; }
};

// Why a request was refused: the protocol's "code" and text; empty code: it
// was not.
struct Refusal {
    std::string code, text;
    explicit operator bool() const { return !code.empty(); }
};

// Single-threaded.  Invariants: a directory belongs to one (gang, store) pair
// and its descriptor goes to members of that pair only; the same for a store
// and its gang.  A gang belongs to the user of its first member.  `now_ms` never
// goes back.
class Coordinator {
  public:
    // `wipe` takes over the descriptors of what an ended gang shared.
    using Wipe = std::function<void(int fd)>;
    // Whether a descriptor's segment is one that is still being wiped.
    using IsWiped = std::function<bool(int fd)>;
    explicit Coordinator(const Limits &limits, Wipe wipe = {}, IsWiped is_wiped = {})
        : limits_(limits), wipe_(std::move(wipe)), is_wiped_(std::move(is_wiped)) {}
    ~Coordinator();

    // `pid` is what the kernel says of the peer, 0 if it does not say.
    Refusal JoinSource(Peer *peer, uint64_t pid, const nlohmann::json &request, uint64_t now_ms);
    Refusal JoinDestination(Peer *peer, uint64_t pid, const nlohmann::json &request);
    // A member of a gang that another gangd, now gone, has coordinated: coordinator_rejoin.cc.
    // `fd`: the segment that it was given then; stays the caller's.
    Refusal RejoinSource(Peer *peer, uint64_t pid, const nlohmann::json &request, int fd);
    Refusal RejoinBoard(Peer *peer, const nlohmann::json &request, int fd);
    Refusal RejoinDestination(Peer *peer, uint64_t pid, const nlohmann::json &request, int fd);
    Refusal Scanned(Peer *peer);
    // The member said that it leaves, with its result.
    Refusal Leave(Peer *peer, const nlohmann::json &request);
    // What an operator, or the gang's own user, says of a gang, also before it is there.
    Refusal Set(const Peer &peer, const nlohmann::json &request, uint64_t now_ms);
    // The connection is gone; nothing is sent to it any more.
    void HungUp(Peer *peer);

    // Releases barriers that have waited long enough.
    void Tick(uint64_t now_ms);
    bool needs_tick() const;

    // Drops what is kept of this gang, or of all (""); returns how many stores.
    size_t Forget(const std::string &id);
    nlohmann::json KeptStatus() const;

    // One page of status: {"gangs": [...], "next": CURSOR unless it is the last}.
    nlohmann::json Status(const std::string &after) const;
    // The same figures, of all gangs, in Prometheus' text format (0.0.4).
    std::string Metrics() const;
    size_t gang_count() const { return sources_.size() + destinations_.size(); }
    size_t member_count() const; // that are connected

  private:
    struct Share { // a directory
        int fd = -1;
        gang::Seed seed{};
        uint64_t slots = 0;
        uint64_t entries = 0;
        std::unique_ptr<gang::Directory> directory;
        ~Share();
    };
    // coordinator_order.cc
    struct Order {
        std::optional<uint64_t> max_bandwidth, bulk_members, turn_ms;
        std::set<std::string> expect; // names of its members; empty: not known
        uid_t owner = 0;
        uint64_t until_ms = 0; // of an announcement
        void Add(const Order &other);
    };
    struct Member {
        Peer *peer = nullptr; // nullptr: it left
        std::string name;
        uint64_t pid = 0;     // for status
        uint64_t process = 0; // the same by the kernel's word only, or 0
        std::string state = "alive";
        // At the source only:
        gang::DirectoryConfig share; // gang_pages: this member's RAM
        Share *granted = nullptr;
        uint32_t index = 0;
        bool wants_board = false;
        bool has_board = false;
        uint32_t board_index = 0; // valid with has_board
        bool scanned = false;
        bool started = false;
    };
    struct Gang {
        std::string id;
        uid_t owner = 0; // of the first member
        // One of each name: a member that comes again replaces what it was.
        std::vector<std::unique_ptr<Member>> members;
        // Source:
        uint64_t expected = 0;
        bool complete = false; // the directories are handed out
        bool started = false;
        uint64_t deadline_ms = 0; // of the barrier at hand
        uint32_t joined = 0, missing = 0;
        std::map<gang::Uuid, std::unique_ptr<Share>> shares;
        Order order; // what of it is not applied yet
        int board_fd = -1;
        std::unique_ptr<gang::Board> board; // made with the first share
        gang::SwitchoverPolicy policy = gang::SwitchoverPolicy::kIndependent;
        bool rejoined = false; // another gangd began it: there is a board already, or none
        bool refused = false; // it could not be whole
        bool told = false;    // the log has it that it was given up
        double progress = 0; // as last told to Prometheus
        // Destination:
        int store_fd = -1;
        std::unique_ptr<gang::Store> store;
        ~Gang();
    };
    using Gangs = std::map<std::string, std::unique_ptr<Gang>>;
    struct Kept { // the store of a gang whose members have all left
        std::string id;
        uid_t owner = 0;
        int fd = -1;
        std::unique_ptr<gang::Store> store;
        uint64_t until_ms = 0; // 0: not yet known
        uint64_t since = 0;    // orders them
        Kept() = default;
        Kept(Kept &&other) noexcept { *this = std::move(other); }
        Kept &operator=(Kept &&other) noexcept;
        ~Kept();
    };

    // What a member at the source says of itself, and whether it may come.
    Refusal CheckSource(Peer *peer, uint64_t pid, const nlohmann::json &request,
                        uint64_t *members_out, gang::DirectoryConfig *share_out,
                        gang::SwitchoverPolicy *policy) const;
    // `key`: in `gangs`; empty: the gang's own.
    Refusal Admit(Gangs *gangs, Peer *peer, uint64_t pid, const nlohmann::json &request,
                  Gang **gang, Member **member, std::string key = {});
    // What a member hands back.
    bool InUse(int fd) const;
    Refusal TakeBackShare(const gang::DirectoryConfig &claim, int fd,
                          std::unique_ptr<Share> *out) const;
    Refusal TakeBackStore(uid_t user, const gang::Uuid &uuid, int fd,
                          std::unique_ptr<gang::Store> *out);
    // Of a gang at the destination.
    std::string KeyOf(const std::string &id, const std::string &name) const;
    // coordinator_limits.cc: what a peer may take, by what it is and has.
    Refusal CheckNewGang(const Peer &peer) const;
    Refusal CheckOwner(const Gang &gang, const Peer &peer) const;
    Refusal CheckMembers(const Gang &gang, const std::string &name, uint64_t members) const;
    Refusal CheckStores(const Gang *gang, const std::string &name, const gang::Uuid &store) const;
    Refusal CheckRam(const Peer &peer, uint64_t pid, uint64_t pages) const;
    static uint64_t PartOf(uid_t user, uint64_t all);
    // coordinator_policy.cc
    static Refusal ReadPolicy(const Gang *gang, const nlohmann::json &request,
                              gang::SwitchoverPolicy *policy);
    static bool RefuseIncomplete(Gang *gang);
    void SetUpPolicy(Gang *gang) const;
    static void MemberGone(Gang *gang, const Member &member, bool said);
    static nlohmann::json PolicyStatus(const Gang &gang);
    void TakeAnnounced(Gang *gang, uint64_t now_ms);
    void ApplyOrder(Gang *gang);
    static std::vector<std::string> Missing(const Gang &gang);
    static std::string MissingText(const Gang &gang);
    void End(Gang *gang);
    static size_t Alive(const Gang &gang);
    void Complete(Gang *gang, uint64_t now_ms);
    void Grant(Gang *gang, Member *member);
    void GrantBoard(Gang *gang, Member *member);
    gang::Status MakeShare(const Gang &gang, const Member &member,
                           std::unique_ptr<Share> *share) const;
    gang::Status MakeStore(Gang *gang, gang::HashKind hash_kind);
    // coordinator_kept.cc
    bool Keep(const std::string &key, Gang *gang);
    void Resume(const std::string &key, Gang *gang, gang::HashKind wanted);
    uint64_t MakeRoom(uid_t user, uint64_t wanted, uint64_t total);
    std::map<std::string, Kept>::iterator Oldest(std::optional<uid_t> of = {});
    void Drop(std::map<std::string, Kept>::iterator it, const char *why);
    void TickKept(uint64_t now_ms);
    uint64_t LeftMs(const Kept &kept) const;
    Refusal ChooseHash(const Peer &peer, const nlohmann::json &request,
                       gang::HashKind *hash_kind) const;
    void CheckStart(Gang *gang, bool timeout);
    bool Remove(Gangs *gangs, Peer *peer, const char *state, bool said);
    static const char *PhaseOf(const Member &member);
    static std::string TurnHolder(const Gang &gang);
    static nlohmann::json MemberStatus(const Gang &gang, const Member &member);
    static nlohmann::json GangStatus(const Gang &gang);

    const Limits limits_;
    const Wipe wipe_;
    const IsWiped is_wiped_;
    // Stores whose directory has ended, the latest ones: which of their slots are
    // filled is not known here any more.
    static constexpr size_t kMaxSpent = 1024;
    std::deque<gang::Uuid> spent_;
    Gangs sources_;
    Gangs destinations_;
    std::map<std::string, Order> announced_; // by gang id
    std::map<std::string, Kept> kept_; // by the key that the gang had in destinations_
    uint64_t keeps_ = 0;
    uint64_t now_ms_ = 0; // at the last Tick()
};

} // namespace gangd

#endif
