// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Directory and store whose memory a hostile member writes: opening refuses or
// works, every operation stays inside, and the store hands out nothing that
// does not hash to what it was stored with.
//
// Input: operations of one byte and their operands; see the switch.

#include <unistd.h>

#include <cstring>

#include "directory.h"
#include "fuzz_store.h"

using namespace gang;
using namespace gang::fuzz;

namespace {

constexpr uint64_t kDirectorySlots = 2 * kChunkSlots;

// Bytes of the input at an offset of the segment, as a hostile process would.
void Scribble(int fd, uint64_t size, Input *input) {
    uint64_t offset = input->Number(3) % size;
    size_t n = std::min<size_t>({input->Number(1), input->left(), size - offset});
    if (n) {
        Check(pwrite(fd, input->Take(n), n, static_cast<off_t>(offset)) == static_cast<ssize_t>(n),
              "the segment can be written");
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    test::Fd directory_fd, store_fd;
    std::unique_ptr<Store> store = MakeStore(false, &store_fd);
    DirectoryConfig config;
    config.seed = kSeed;
    config.gang_pages = 64;
    config.store_slots = kDirectorySlots;
    std::unique_ptr<Directory> directory;
    Check(Directory::Create(config, directory_fd.out()).ok(), "a directory can be made");
    Check(Directory::Open(directory_fd.get(), &directory).ok(), "it can be opened");
    uint32_t member = 0;
    (void)directory->AddMember(1, &member);

    alignas(64) uint8_t page[kPageSize];
    Decision decision;
    for (int steps = 0; input.left() && steps < 1000; steps++) {
        Hash hash;
        uint32_t slot = 0;
        switch (input.Number(1) % 12) {
        case 0:
            Scribble(directory_fd.get(), Directory::SizeFor(config), &input);
            break;
        case 1:
            Scribble(store_fd.get(), Store::SizeFor(kSlots), &input);
            break;
        case 2: { // a member that joins now maps what is there now
            std::unique_ptr<Directory> again;
            if (Directory::Open(directory_fd.get(), &again).ok()) {
                directory = std::move(again);
                decision = {}; // its entry was in the old mapping
            }
            break;
        }
        case 3: {
            std::unique_ptr<Store> again;
            if (Store::Open(store_fd.get(), &again).ok()) {
                store = std::move(again);
            }
            break;
        }
        case 4:
            directory->Count({input.Number(1) + 1, input.Number(8) | 1});
            break;
        case 5:
            decision = directory->Decide({input.Number(1) + 1, input.Number(8) | 1}, member);
            Check(decision.verdict == Verdict::kLiteral || decision.entry, "verdicts have entries");
            break;
        case 6:
            if (decision.entry) {
                directory->Claim(decision.entry, decision.claim,
                                 static_cast<uint32_t>(input.Number(4)),
                                 static_cast<uint32_t>(input.Number(1)));
            }
            break;
        case 7:
            if (directory->TakeChunk(member, 3, &slot)) {
                Check(slot + kChunkSlots <= directory->slots(), "chunks are inside the store");
            }
            break;
        case 8: {
            uint64_t claim = input.Number(8);
            uint32_t owner, channel;
            if (directory->Owner(claim, &owner, &channel)) {
                Check(owner < kMaxMembers && channel < kMaxChannels, "owners exist");
                Check((claim >> 32) - 1 < directory->slots(), "claimed slots exist");
            }
            directory->Confirmed(claim);
            break;
        }
        case 9:
            directory->SetAcked(static_cast<uint32_t>(input.Number(1)),
                                static_cast<uint32_t>(input.Number(1)),
                                static_cast<uint32_t>(input.Number(4)));
            directory->SetMemberState(static_cast<uint32_t>(input.Number(1)), MemberState::kDead);
            (void)directory->AddMember(2, &member);
            break;
        case 10:
            slot = static_cast<uint32_t>(input.Number(2));
            test::FillPage(page, slot);
            (void)store->Put(slot, page, &hash);
            break;
        case 11:
            slot = static_cast<uint32_t>(input.Number(2));
            if (store->Get(slot, page, &hash).ok()) {
                Check(slot < kSlots, "slots handed out exist");
                Check(store->hasher()(page, kPageSize) == hash, "pages handed out hash right");
            }
            break;
        }
    }
    Check(directory->slots_taken() <= directory->slots(), "no more slots than there are");
    return 0;
}
