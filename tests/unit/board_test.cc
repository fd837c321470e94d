// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The board: one page of words that all members of a gang write.

#include "board.h"

#include <unistd.h>

#include "testing.h"

namespace gang {
namespace {

using test::Fd;

struct Sample {
    Sample() {
        EXPECT_TRUE(Board::Create(fd.out()).ok());
        EXPECT_TRUE(Board::Open(fd.get(), &board).ok());
    }
    Fd fd;
    std::unique_ptr<Board> board;
};

TEST(Board, TwoProcessesSeeOneBoard) {
    Sample a;
    std::unique_ptr<Board> b;
    GANG_OK(Board::Open(a.fd.get(), &b));
    uint32_t index = 77;
    GANG_OK(a.board->AddMember(4711, &index));
    EXPECT_EQ(index, 0u);
    b->record(0).remaining = 12345;
    EXPECT_EQ(a.board->record(0).remaining, 12345u);
    EXPECT_EQ(b->record(0).pid, 4711u);
    EXPECT_EQ(b->state(0), MemberState::kAlive);
    EXPECT_EQ(b->state(1), MemberState::kFree);
}

TEST(Board, HasARecordForEachOf128Members) {
    Sample a;
    uint32_t index = 0;
    for (uint32_t i = 0; i < kMaxMembers; i++) {
        GANG_OK(a.board->AddMember(1, &index));
        EXPECT_EQ(index, i);
    }
    EXPECT_EQ(a.board->AddMember(1, &index).code(), Code::kExhausted);
    // The last record is inside the segment.
    a.board->record(kMaxMembers - 1).spare[6] = 1;
    // Of one that left nobody gets the record: others may still look at it.
    a.board->SetState(3, MemberState::kLeft);
    EXPECT_EQ(a.board->AddMember(1, &index).code(), Code::kExhausted);
}

TEST(Board, Invariant5_WhatIsNoBoardIsRefused) {
    for (size_t offset : {offsetof(SegmentHeader, magic), offsetof(SegmentHeader, layout_version),
                          offsetof(SegmentHeader, header_size),
                          offsetof(SegmentHeader, layout_signature),
                          offsetof(SegmentHeader, segment_size),
                          offsetof(BoardHeader, max_members), offsetof(BoardHeader, members_off)}) {
        Fd fd;
        GANG_OK(Board::Create(fd.out()));
        uint8_t byte = 0;
        ASSERT_EQ(pread(fd.get(), &byte, 1, static_cast<off_t>(offset)), 1);
        byte ^= 0x55;
        ASSERT_EQ(pwrite(fd.get(), &byte, 1, static_cast<off_t>(offset)), 1);
        std::unique_ptr<Board> board;
        EXPECT_FALSE(Board::Open(fd.get(), &board).ok()) << offset;
        EXPECT_EQ(board, nullptr);
    }
    Fd small;
    GANG_OK(CreateSealedMemfd("test", sizeof(BoardHeader), small.out()));
    SegmentHeader h;
    InitSegmentHeader(&h, kBoardMagic, sizeof(BoardHeader), sizeof(BoardHeader));
    ASSERT_EQ(pwrite(small.get(), &h, sizeof(h), 0), static_cast<ssize_t>(sizeof(h)));
    std::unique_ptr<Board> board;
    EXPECT_FALSE(Board::Open(small.get(), &board).ok());
}

TEST(Board, Invariant4_WhoseHeartStandsStillDoesNotLive) {
    Sample a;
    uint32_t beats, stands;
    GANG_OK(a.board->AddMember(1, &beats));
    GANG_OK(a.board->AddMember(2, &stands));
    BoardWatch watch(a.board.get(), 1000);
    for (uint64_t now = 5000; now <= 5900; now += 100) {
        a.board->record(beats).heartbeat++;
        watch.Observe(now);
        EXPECT_TRUE(watch.Lives(beats));
        EXPECT_TRUE(watch.Lives(stands)) << now;
    }
    a.board->record(beats).heartbeat++;
    watch.Observe(6000);
    EXPECT_TRUE(watch.Lives(beats));
    EXPECT_FALSE(watch.Lives(stands));
    EXPECT_FALSE(watch.Lives(2)) << "there is no such member";
    a.board->record(stands).heartbeat++; // was only stopped
    watch.Observe(6001);
    EXPECT_TRUE(watch.Lives(stands));
    a.board->SetState(stands, MemberState::kLeft);
    a.board->record(stands).heartbeat++;
    watch.Observe(6002);
    EXPECT_FALSE(watch.Lives(stands));
    a.board->SetState(beats, static_cast<MemberState>(99)); // no state at all
    watch.Observe(6003);
    EXPECT_FALSE(watch.Lives(beats));
}

} // namespace
} // namespace gang
