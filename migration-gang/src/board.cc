// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Making and mapping the board, and telling who lives.

#include "board.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <string>
#include <utility>

namespace gang {

namespace {

constexpr uint64_t kSize = sizeof(BoardHeader) + uint64_t{kMaxMembers} * sizeof(BoardRecord);
static_assert(sizeof(BoardHeader) % alignof(BoardRecord) == 0);

} // namespace

Status Board::Create(int *fd) {
    int f = -1;
    Status status = CreateSealedMemfd("gang-board", kSize, &f);
    if (!status.ok()) {
        return status;
    }
    void *p = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    if (p == MAP_FAILED) {
        int err = errno;
        close(f);
        return Status::System("mapping a gang's board", err);
    }
    auto *h = new (p) BoardHeader{}; // the memory is zero, as the words are to be
    InitSegmentHeader(&h->segment, kBoardMagic, sizeof(BoardHeader), kSize);
    h->max_members = kMaxMembers;
    h->members_off = sizeof(BoardHeader);
    munmap(p, kSize);
    *fd = f;
    return Status::Ok();
}

Status Board::Open(int fd, std::unique_ptr<Board> *out) {
    Segment segment;
    Status status = segment.Map(fd, kBoardMagic, sizeof(BoardHeader));
    if (!status.ok()) {
        return status;
    }
    auto *h = reinterpret_cast<BoardHeader *>(segment.data());
    if (segment.size() != kSize || ReadOnce(h->max_members) != kMaxMembers ||
        ReadOnce(h->members_off) != sizeof(BoardHeader)) {
        return {Code::kInvalid, "the board's header makes no sense"};
    }
    status = segment.AllowWrites(segment.size());
    if (!status.ok()) {
        return status;
    }
    std::unique_ptr<Board> board(new Board());
    board->fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (board->fd_ < 0) {
        return Status::System("no descriptor for the board", errno);
    }
    board->header_ = h;
    board->records_ = reinterpret_cast<BoardRecord *>(segment.data() + sizeof(BoardHeader));
    board->segment_ = std::move(segment);
    *out = std::move(board);
    return Status::Ok();
}

Board::~Board() {
    if (fd_ >= 0) {
        close(fd_);
    }
}

Status Board::AddMember(uint32_t pid, uint32_t *index) {
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        uint32_t expected = static_cast<uint32_t>(MemberState::kFree);
        if (records_[i].state.compare_exchange_strong(
                expected, static_cast<uint32_t>(MemberState::kAlive), std::memory_order_acq_rel)) {
            records_[i].pid.store(pid, std::memory_order_relaxed);
            *index = i;
            return Status::Ok();
        }
    }
    return {Code::kExhausted, "this gang has had " + std::to_string(kMaxMembers) +
                                  " joins; end it and start again under another gang id"};
}

void BoardWatch::Observe(uint64_t now_ms) {
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        Seen &s = seen_[i];
        if (board_->state(i) != MemberState::kAlive) {
            s.lives = false;
            continue;
        }
        uint64_t heartbeat = board_->record(i).heartbeat.load(std::memory_order_relaxed);
        if (s.since_ms == 0 || heartbeat != s.heartbeat) {
            s.heartbeat = heartbeat;
            s.since_ms = now_ms ? now_ms : 1;
        }
        s.lives = now_ms - s.since_ms < patience_ms_;
    }
}

} // namespace gang
