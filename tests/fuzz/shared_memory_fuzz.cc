// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Directory, mirror and store whose memory a hostile member writes: opening refuses
// or works, every operation stays inside, the store hands out nothing that does
// not hash to what it was stored with, and a VM that migrates meanwhile arrives
// identical or not at all (invariants 1, 3 and 5).
//
// First byte, bit 1: a gang by SHA-256.  Then operations of one byte and their
// operands; see the switch.

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "directory.h"
#include "fuzz_store.h"
#include "page_cache.h"
#include "scan.h"
#include "stall_watch.h"

using namespace gang;
using namespace gang::fuzz;

namespace {

constexpr uint64_t kDirectorySlots = 2 * kChunkSlots;

// Bytes of the input at an offset of the segment, as a hostile process would.
void Scribble(int fd, Input *input) {
    struct stat st = {};
    Check(fstat(fd, &st) == 0, "a segment has a size");
    const uint64_t size = static_cast<uint64_t>(st.st_size);
    uint64_t offset = input->Number(3) % size;
    size_t n = std::min<size_t>(input->Length(1), size - offset);
    if (n) {
        Check(pwrite(fd, input->Take(n), n, static_cast<off_t>(offset)) == static_cast<ssize_t>(n),
              "the segment can be written");
    }
}

// A VM of kPages pages between the two: what its channel sends is applied at once.
class Vm {
  public:
    Vm() : from_(kPages), to_(kPages), cache_(uint64_t{kPages} * kPageSize) {}

    // Its channel begins anew, at memory that is mapped anew.
    void Connect(Directory *directory, Store *store, uint32_t member) {
        directory_ = directory;
        member_ = member;
        deferred_.clear();
        encoder_.reset();
        stalls_ = std::make_unique<StallWatch>(directory, 10);
        Check(Decoder::Create(store, &decoder_).ok(), "a decoder can be made");
        if (!Encoder::Create(directory, stalls_.get(), member, 0, {PayloadEncoding::kZstd, 1},
                             &encoder_)
                 .ok()) {
            encoder_.reset();
            return;
        }
        encoder_->set_peers({&cache_, -1});
        encoder_->set_resending(true);
    }
    void Write(uint64_t page, uint64_t content) {
        test::FillPage(from_.page(page % kPages), content);
    }
    void Scan() {
        const std::vector<uint64_t> offsets = from_.offsets();
        ScanPages(directory_, member_, from_.data(), offsets.data(), kPages, test::IsZero,
                  directory_->has_mirror());
    }
    // False: its migration has failed.
    bool Send(uint64_t first, uint64_t count, bool defer) {
        std::vector<uint64_t> offsets;
        first %= kPages;
        for (uint64_t i = first; i < std::min(kPages, first + 1 + count % kPages); i++) {
            offsets.push_back(i * kPageSize);
        }
        EncodedPacket packet;
        const size_t before = deferred_.size();
        if (!encoder_ || !encoder_
                              ->Encode("a", nullptr, from_.data(), offsets.data(), offsets.size(),
                                       test::IsZero, defer ? &deferred_ : nullptr, &packet)
                              .ok()) {
            return false;
        }
        Check(packet.deferred_pages == deferred_.size() - before, "deferred pages are counted");
        if (packet.empty()) {
            return true;
        }
        uint32_t ack = 0;
        if (!test::Apply(decoder_.get(), test::Flatten(packet), to_, &ack).ok()) {
            return false;
        }
        directory_->SetAcked(member_, 0, ack);
        for (uint64_t offset : offsets) {
            bool here = true;
            for (size_t i = before; i < deferred_.size(); i++) {
                here = here && deferred_[i].offset != offset;
            }
            Check(!here || memcmp(from_.data() + offset, to_.data() + offset, kPageSize) == 0,
                  "what arrives is what was sent");
        }
        return true;
    }
    void Look(uint64_t now_ms) {
        stalls_->Observe(now_ms);
        for (const Deferred &page : deferred_) {
            (void)Decidable(*directory_, stalls_.get(), page);
        }
    }

  private:
    test::GuestMemory from_, to_;
    PageCache cache_;
    Directory *directory_ = nullptr;
    uint32_t member_ = 0;
    std::unique_ptr<StallWatch> stalls_;
    std::unique_ptr<Encoder> encoder_;
    std::unique_ptr<Decoder> decoder_;
    std::vector<Deferred> deferred_;
};

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const HashKind kind = KindOf(input.Number(1));
    test::Fd directory_fd, store_fd;
    std::unique_ptr<Store> store = MakeStore(kind, false, &store_fd);
    DirectoryConfig config;
    config.hash_kind = kind;
    config.seed = kSeed;
    config.gang_pages = 64;
    config.store_slots = kDirectorySlots;
    config.mirror_pages = kDirectorySlots;
    std::unique_ptr<Directory> directory;
    Check(Directory::Create(config, directory_fd.out()).ok(), "a directory can be made");
    Check(Directory::Open(directory_fd.get(), &directory).ok(), "it can be opened");
    uint32_t member = 0;
    (void)directory->AddMember(1, &member);
    Vm vm;
    vm.Connect(directory.get(), store.get(), member);

    alignas(64) uint8_t page[kPageSize];
    Decision decision;
    for (int steps = 0; input.left() && steps < 1000; steps++) {
        Hash hash;
        uint32_t slot = 0;
        switch (input.Number(1) % 16) {
        case 0:
            Scribble(directory_fd.get(), &input);
            break;
        case 1:
            Scribble(store_fd.get(), &input);
            break;
        case 2: { // a member that joins now maps what is there now
            std::unique_ptr<Directory> again;
            if (Directory::Open(directory_fd.get(), &again).ok()) {
                std::swap(directory, again);
                decision = {}; // its entry was in the old mapping
                vm.Connect(directory.get(), store.get(), member);
            }
            break;
        }
        case 3: {
            std::unique_ptr<Store> again;
            if (Store::Open(store_fd.get(), &again).ok()) {
                std::swap(store, again);
                vm.Connect(directory.get(), store.get(), member);
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
        case 12:
            slot = static_cast<uint32_t>(input.Number(1));
            vm.Write(slot, input.Number(1) & 1
                               ? test::SimilarContent(slot & 3, input.Number(1) & 15)
                               : input.Number(1));
            break;
        case 13:
            vm.Scan();
            break;
        case 14: {
            uint64_t first = input.Number(1), count = input.Number(1);
            if (!vm.Send(first, count, input.Number(1) & 1)) {
                return 0; // of no use any more
            }
            break;
        }
        case 15:
            vm.Look(input.Number(1));
            break;
        }
    }
    Check(directory->slots_taken() <= directory->slots(), "no more slots than there are");
    return 0;
}
