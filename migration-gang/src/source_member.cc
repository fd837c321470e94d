// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The membership's steps, and the way of deferred pages.

#include "source_member.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "control_message.h"
#include "scan.h"

namespace gang {

namespace {

constexpr int kHelloTimeoutMs = 2000;
constexpr int kSendTimeoutMs = 1000;
// Nobody waits longer for a member whose destination does not acknowledge.
constexpr uint64_t kStallMs = 1000;
constexpr uint64_t kObserveEveryMs = 20;
// So long a coordinator may take to come back before the gang goes on without.
constexpr uint64_t kComeBackMs = 3000;
constexpr uint64_t kTryEveryMs = 200;
// Without news of what a kept store holds, members go on with what they know by then.
constexpr uint64_t kInventorySilenceMs = 5000;
constexpr uint64_t kInventoryMs = 60000;

uint64_t NowMs() {
    using namespace std::chrono;
    return static_cast<uint64_t>(
        duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count());
}

} // namespace

Status SourceMember::Create(const SourceMemberConfig &config, std::unique_ptr<SourceMember> *out) {
    if (config.channels == 0 || config.channels > kMaxChannels) {
        return {Code::kInvalid, "a gang migration has 1 to " + std::to_string(kMaxChannels) +
                                    " multifd channels; set multifd-channels"};
    }
    std::unique_ptr<SourceMember> m(new SourceMember(config));
    Status status = ControlClient::Connect(config.socket, kHelloTimeoutMs, &m->control_);
    if (status.ok()) {
        status = m->control_->Hello("qemu", true, kHelloTimeoutMs);
    }
    if (status.ok()) {
        *out = std::move(m);
    }
    return status;
}

SourceMember::~SourceMember() {
    for (int fd : {grant_.fd, grant_.board_fd}) {
        if (fd >= 0) {
            close(fd);
        }
    }
}

void SourceMember::SetPhase(Phase phase, const char *name) {
    phase_.store(name, std::memory_order_relaxed);
    if (directory_) {
        directory_->SetStat(grant_.index, Stat::kPhase, static_cast<uint64_t>(phase));
    }
}

Status SourceMember::ReturnMessage(const uint8_t *message, size_t size) {
    if (ReturnMessageType(message, size) == ReturnMessage::kAck) {
        uint16_t channel;
        uint32_t packet;
        Status status = ParseAck(message, size, &channel, &packet);
        if (!status.ok()) {
            return status;
        }
        // Acknowledgements come in order; anything else would make pages
        // confirmed that are not in the store.
        if (channel >= config_.channels ||
            packet != channels_[channel].acked.load(std::memory_order_relaxed) + 1 ||
            packet > channels_[channel].sent.load(std::memory_order_acquire)) {
            return {Code::kInvalid, "the destination acknowledged packet " +
                                        std::to_string(packet) + " out of turn"};
        }
        channels_[channel].acked.store(packet, std::memory_order_relaxed);
        Beat();
        if (Directory *d = shared_.load(std::memory_order_acquire)) {
            d->SetAcked(grant_.index, channel, packet);
        }
        return Status::Ok();
    }
    if (ReturnMessageType(message, size) == ReturnMessage::kInventory ||
        ReturnMessageType(message, size) == ReturnMessage::kInventoryEnd) {
        return TakeInventory(message, size);
    }
    Greeting greeting;
    Status status = ParseGreeting(message, size, &greeting);
    if (!status.ok()) {
        return status;
    }
    if (config_.hash_kind != HashKind::kInvalid && config_.hash_kind != greeting.hash_kind) {
        return {Code::kIncompatible,
                "the gang at the destination has the hash " + HashKindText(greeting.hash_kind) +
                    ", this VM was told to ask for " + HashKindText(config_.hash_kind) +
                    ": give gang-migrate-incoming the same gang-hash"};
    }
    std::lock_guard lock(mutex_);
    if (greeted_) {
        return {Code::kInvalid, "the destination greeted twice"};
    }
    greeting_ = greeting;
    greeted_.store(true, std::memory_order_release);
    greeting_came_.notify_all();
    return Status::Ok();
}

Status SourceMember::TakeInventory(const uint8_t *message, size_t size) {
    Directory *d = shared_.load(std::memory_order_acquire);
    if (!d || !asked_.load(std::memory_order_acquire)) {
        return {Code::kInvalid, "the destination tells what its store holds without being asked"};
    }
    Status status;
    if (ReturnMessageType(message, size) == ReturnMessage::kInventoryEnd) {
        uint32_t open;
        uint64_t told;
        status = ParseInventoryEnd(message, size, &open, &told);
        if (status.ok() && told != told_) {
            status = {Code::kInvalid, "the destination's inventory is not complete"};
        }
        if (status.ok()) {
            d->EndInventory(grant_.index, open);
            asked_.store(false, std::memory_order_release);
        }
        return status;
    }
    Hash hashes[kInventorySlots];
    uint32_t first;
    size_t count;
    status = ParseInventory(message, size, &first, hashes, &count);
    for (size_t i = 0; status.ok() && i < count; i++) {
        // Each once at most: the inventory ends.
        if (++told_ > d->slots() || UINT32_MAX - first < i ||
            !d->Keep(first + static_cast<uint32_t>(i), hashes[i])) {
            status = {Code::kInvalid, "the destination's inventory names slots it does not have"};
        }
    }
    return status;
}

bool SourceMember::WantsInventory() {
    // Once, whatever the directory says of who has asked: a second inventory is an error.
    if (!directory_ || has_asked_ || !directory_->AskInventory(grant_.index)) {
        return false;
    }
    has_asked_ = true;
    asked_.store(true, std::memory_order_release);
    return true;
}

// Waits at most timeout_ms; true: there is no need to wait any longer.
bool SourceMember::AwaitInventory(int timeout_ms) {
    const uint64_t now = NowMs();
    const uint64_t entries = directory_->header().entries_used.load(std::memory_order_relaxed);
    if (directory_->inventory_complete()) {
        return true;
    }
    if (inventory_since_ms_ == 0) {
        inventory_since_ms_ = entries_since_ms_ = now;
    }
    if (entries != entries_) {
        entries_ = entries;
        entries_since_ms_ = now;
    }
    if (now - entries_since_ms_ >= kInventorySilenceMs ||
        now - inventory_since_ms_ >= kInventoryMs) {
        return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(std::clamp(timeout_ms, 0, 2)));
    return false;
}

SourceJoin SourceMember::Announcement() const {
    SourceJoin join;
    join.gang = config_.gang;
    join.member = config_.member;
    join.members = config_.members;
    join.store = greeting_.store;
    join.seed = greeting_.seed;
    join.hash_kind = greeting_.hash_kind;
    join.slots = greeting_.slots;
    join.filled = greeting_.filled;
    join.ram_pages = config_.ram_pages;
    join.channels = config_.channels;
    join.policy = SwitchoverPolicyName(config_.policy);
    return join;
}

Status SourceMember::Join() { return control_->JoinSource(Announcement(), kSendTimeoutMs); }

// Whether that, or another attempt, may still come to something.
bool SourceMember::JoinAgain(int timeout_ms) {
    const uint64_t now = NowMs();
    if (lost_ms_ == 0) {
        lost_ms_ = now;
    }
    if (now - lost_ms_ > kComeBackMs) {
        return false;
    }
    if (now - tried_ms_ < kTryEveryMs) {
        std::this_thread::sleep_for(std::chrono::milliseconds(timeout_ms));
        return true;
    }
    tried_ms_ = now;
    std::unique_ptr<ControlClient> client;
    Status status = ControlClient::Connect(config_.socket, 0, &client);
    if (status.ok()) {
        status = client->SendHello("qemu", true, 0);
    }
    if (status.ok()) {
        control_ = std::move(client);
        if (grant_.board_fd >= 0) { // another one comes with the directory
            close(grant_.board_fd);
            grant_.board_fd = -1;
        }
        (void)Join(); // what became of it shows at the next Advance()
    }
    return true;
}

void SourceMember::Run() {
    SetPhase(Phase::kMigrating, "migrating");
    state_ = State::kRun;
    if (directory_) {
        nlohmann::json again = SourceJoinMessage(Announcement());
        again["op"] = "rejoin-source";
        again["index"] = grant_.index;
        again["joined"] = grant_.joined;
        again["missing"] = grant_.missing;
        std::vector<ControlKeeper::Piece> pieces;
        pieces.push_back({std::move(again), directory_->fd()});
        if (board_) {
            pieces.push_back({{{"op", "rejoin-board"}, {"index", grant_.board_index}}, board_->fd()});
        }
        keeper_ = std::make_unique<ControlKeeper>(std::move(control_), config_.socket,
                                                  std::move(pieces));
    }
}

Status SourceMember::OpenDirectory() {
    if (grant_.index >= kMaxMembers) {
        return {Code::kInvalid, "the coordinator gave a member number that does not exist"};
    }
    Status status = Directory::Open(grant_.fd, &directory_);
    close(grant_.fd);
    grant_.fd = -1;
    if (!status.ok()) {
        return status;
    }
    if (directory_->header().store_uuid != greeting_.store ||
        directory_->header().seed != greeting_.seed ||
        directory_->hash_kind() != greeting_.hash_kind || directory_->slots() > greeting_.slots) {
        directory_.reset();
        return {Code::kInvalid, "the coordinator gave the directory of another store"};
    }
    stalls_ = std::make_unique<StallWatch>(directory_.get(), kStallMs);
    directory_->SetStat(grant_.index, Stat::kRamPages, config_.ram_pages);
    shared_.store(directory_.get(), std::memory_order_release);
    return Status::Ok();
}

// Policy is no reason to fail: what is no board is done without.
void SourceMember::OpenBoard() {
    if (grant_.board_fd < 0) {
        return;
    }
    Status status = Board::Open(grant_.board_fd, &board_);
    close(grant_.board_fd);
    grant_.board_fd = -1;
    if (!status.ok()) {
        return;
    }
    pacer_ = std::make_unique<Pacer>(board_.get(), grant_.board_index, config_.priority);
    {
        // With the lock: what is set meanwhile is either in wanted_rate_ or finds the board.
        std::lock_guard lock(rate_mutex_);
        if (wanted_rate_) {
            board_->header().budget.store(*wanted_rate_, std::memory_order_relaxed);
        }
        board_shared_.store(board_.get(), std::memory_order_release);
    }
    if (config_.policy != SwitchoverPolicy::kIndependent) {
        switchover_ =
            std::make_unique<Switchover>(board_.get(), grant_.board_index, config_.policy);
        switchover_shared_.store(switchover_.get(), std::memory_order_release);
    }
}

// Who cannot see the others must not leave where they may stay.
Status SourceMember::CheckPolicy() const {
    if (config_.policy == SwitchoverPolicy::kAllOrNothing && !switchover_) {
        return {Code::kInvalid, "gang-policy=all-or-nothing needs the coordinator, which went away "
                                "before the gang had started: start gangd and the gang again"};
    }
    return Status::Ok();
}

// Any thread that does something for this migration.
void SourceMember::Beat() {
    if (Board *board = board_shared_.load(std::memory_order_acquire)) {
        board->record(grant_.board_index).heartbeat.fetch_add(1, std::memory_order_relaxed);
    }
}

Pacer::Pace SourceMember::NextPace(Pacer::State state) {
    if (!pacer_) {
        return {};
    }
    state.in_flight = in_flight();
    using namespace std::chrono;
    return pacer_->Next(state, static_cast<uint64_t>(duration_cast<nanoseconds>(
                                                         steady_clock::now().time_since_epoch())
                                                         .count()));
}

void SourceMember::ReleaseTurn() {
    if (pacer_) {
        pacer_->Release();
    }
}

bool SourceMember::SetMaxBandwidth(uint64_t rate) {
    std::lock_guard lock(rate_mutex_);
    wanted_rate_ = rate;
    Board *board = board_shared_.load(std::memory_order_acquire);
    if (board) {
        board->header().budget.store(rate, std::memory_order_relaxed);
    }
    return board != nullptr;
}

Status SourceMember::Advance(int timeout_ms, Step *step) {
    *step = Step::kWait;
    Beat();
    Status status;
    bool ready = false;
    switch (state_) {
    case State::kGreeting: {
        std::unique_lock lock(mutex_);
        if (!greeting_came_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                                     [this] { return greeted_.load(); })) {
            return Status::Ok();
        }
        status = Join();
        SetPhase(Phase::kJoining, "joining");
        state_ = State::kJoin;
        break;
    }
    case State::kJoin:
        status = control_->PollDirectory(&grant_, &ready, timeout_ms);
        if (status.ok() && ready) {
            status = OpenDirectory();
            OpenBoard();
            SetPhase(Phase::kScanning, "scanning");
            state_ = State::kScan;
        }
        break;
    case State::kScan:
        *step = Step::kScan;
        return Status::Ok();
    case State::kBarrier:
        status = control_->PollStart(&ready, timeout_ms);
        if (status.ok() && ready) {
            state_ = State::kInventory;
        }
        break;
    case State::kInventory:
        if (AwaitInventory(timeout_ms)) {
            Run();
            return CheckPolicy();
        }
        break;
    case State::kRun:
        *step = Step::kRun;
        return Status::Ok();
    }
    if (status.code() == Code::kUnavailable) {
        if (!directory_ && control_->gone() && JoinAgain(timeout_ms)) {
            return Status::Ok();
        }
        // Invariant 4: no migration stops for want of a coordinator.
        if (directory_) {
            state_ = State::kInventory;
            return Status::Ok();
        }
        Run();
        return CheckPolicy();
    }
    return status;
}

void SourceMember::Scan(const uint8_t *host, const uint64_t *offsets, size_t count,
                        IsZeroFn is_zero) {
    if (directory_) {
        ScanPages(directory_.get(), grant_.index, host, offsets, count, is_zero,
                  config_.encoder.dedup != Dedup::kPage && directory_->has_mirror());
    }
}

void SourceMember::ScanDone() {
    SetPhase(Phase::kBarrier, "barrier");
    state_ = State::kBarrier;
    // A coordinator that is gone shows at the next Advance().
    (void)control_->Scanned(kSendTimeoutMs);
}

void SourceMember::SetSocket(uint32_t channel, int socket) {
    if (channel < config_.channels) {
        channels_[channel].socket = socket;
    }
}

Status SourceMember::Encode(uint32_t channel, const char *id, void *block, const uint8_t *host,
                            const uint64_t *offsets, size_t count, IsZeroFn is_zero,
                            EncodedPacket *packet) {
    if (channel >= config_.channels) {
        return {Code::kInvalid, "no such channel"};
    }
    Beat();
    Channel &c = channels_[channel];
    if (!c.encoder) {
        EncoderOptions options = config_.encoder;
        options.seed = greeting_.seed;
        options.hash_kind = greeting_.hash_kind;
        Status status = Encoder::Create(directory_.get(), stalls_.get(), grant_.index, channel,
                                        options, &c.encoder);
        if (!status.ok()) {
            return status;
        }
    }
    c.encoder->set_peers({config_.encoder.dedup != Dedup::kPage ? &cache_ : nullptr, c.socket});
    c.encoder->set_resending(resending_.load(std::memory_order_relaxed));
    c.fresh.clear();
    Status status =
        c.encoder->Encode(id, block, host, offsets, count, is_zero,
                          defer_.load(std::memory_order_relaxed) ? &c.fresh : nullptr, packet);
    if (status.ok() && !packet->empty()) {
        c.sent.fetch_add(1, std::memory_order_release);
    }
    if (status.ok() && !c.fresh.empty()) {
        std::lock_guard lock(c.mutex);
        c.deferred.insert(c.deferred.end(), c.fresh.begin(), c.fresh.end());
        deferred_count_.fetch_add(c.fresh.size(), std::memory_order_relaxed);
    }
    return status;
}

uint64_t SourceMember::in_flight() const {
    uint64_t packets = 0;
    for (const Channel &c : channels_) {
        uint32_t acked = c.acked.load(std::memory_order_relaxed);
        packets += c.sent.load(std::memory_order_relaxed) - acked;
    }
    return packets;
}

void SourceMember::Observe() {
    uint64_t now = NowMs();
    if (now - last_observed_ms_ >= kObserveEveryMs) {
        stalls_->Observe(now);
        last_observed_ms_ = now;
    }
}

uint64_t SourceMember::DeferredReady() {
    if (!directory_) {
        return 0;
    }
    Observe();
    uint64_t ready = 0;
    for (Channel &c : channels_) {
        std::lock_guard lock(c.mutex);
        for (const Deferred &page : c.deferred) {
            ready += Decidable(*directory_, stalls_.get(), page);
        }
    }
    return ready;
}

uint64_t SourceMember::TakeDeferred(bool all, void (*take)(void *, void *, uint64_t),
                                    void *opaque) {
    if (!directory_) {
        return 0;
    }
    Observe();
    if (!deferred()) {
        return 0;
    }
    uint64_t taken = 0;
    for (Channel &c : channels_) {
        std::lock_guard lock(c.mutex);
        size_t kept = 0;
        for (const Deferred &page : c.deferred) {
            if (all || Decidable(*directory_, stalls_.get(), page)) {
                take(opaque, page.block, page.offset);
                taken++;
            } else {
                c.deferred[kept++] = page;
            }
        }
        c.deferred.resize(kept);
    }
    deferred_count_.fetch_sub(taken, std::memory_order_relaxed);
    return taken;
}

void SourceMember::SetProgress(bool switchover, uint64_t remaining_pages, uint64_t round) {
    if (switchover) {
        SetPhase(Phase::kSwitchover, "switchover");
    }
    resending_.store(round > 1, std::memory_order_relaxed);
    Beat();
    if (directory_) {
        Observe();
        directory_->SetStat(grant_.index, Stat::kRemainingPages, remaining_pages);
        directory_->SetStat(grant_.index, Stat::kRound, round);
    }
}

void SourceMember::SetFigure(Stat figure, uint64_t value) {
    if (directory_) {
        directory_->SetStat(grant_.index, figure, value);
    }
}

void SourceMember::Leave(LeaveResult result) {
    switch (result) {
    case LeaveResult::kCompleted:
        SetPhase(Phase::kCompleted, "completed");
        break;
    case LeaveResult::kFailed:
        SetPhase(Phase::kFailed, "failed");
        break;
    case LeaveResult::kCancelled:
        SetPhase(Phase::kFailed, "cancelled");
        break;
    }
    if (result == LeaveResult::kCompleted) {
        SetFigure(Stat::kProgress, 1000);
        SetFigure(Stat::kRemainingPages, 0);
    }
    SetFigure(Stat::kLeftMs, result == LeaveResult::kCompleted ? 0 : UINT64_MAX);
    SetFigure(Stat::kByteRate, 0);
    SetFigure(Stat::kDirtyRate, 0);
    if (directory_) {
        // Said here too: gangd may be gone, and others must not wait.
        directory_->SetMemberState(grant_.index, MemberState::kLeft);
    }
    if (switchover_ && result != LeaveResult::kCompleted) {
        switchover_->GiveUp(result == LeaveResult::kCancelled ? GiveUpReason::kCancelled
                                                              : GiveUpReason::kFailed);
    }
    ReleaseTurn();
    if (board_) {
        board_->SetState(grant_.board_index, MemberState::kLeft);
    }
    if (keeper_) {
        keeper_->Leave(result);
    }
    if (control_) {
        (void)control_->Leave(result);
        control_.reset(); // if that got lost, gangd sees the end of the connection
    }
}

} // namespace gang
