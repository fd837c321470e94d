// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A source member between a hostile destination (greeting, acknowledgements) and
// a hostile coordinator (messages, descriptors): it fails or goes on, sends nothing
// before it was greeted, and holds nothing for acknowledged that it has not sent.
//
// First byte, bit 1: a gang by SHA-256.  Then operations of one byte and their
// operands; see the switch.

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

#include "control_message.h"
#include "descriptor.h"
#include "fuzz_store.h"
#include "source_member.h"

using namespace gang;
using namespace gang::fuzz;

namespace {

constexpr uint32_t kChannels = 2;

// Says hello to whoever connects, and hands its end of the connection over.
class Coordinator {
  public:
    Coordinator() : path_("/tmp/return-path-fuzz-" + std::to_string(getpid())) {
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
        unlink(path_.c_str());
        listener_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        Check(bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) == 0 &&
                  listen(listener_, 8) == 0,
              "a socket can be made");
        std::thread([this] { Accept(); }).detach(); // for the life of the process
        static const std::string path = path_;
        atexit([] { unlink(path.c_str()); });
    }
    const std::string &path() const { return path_; }
    int Take() {
        std::unique_lock lock(mutex_);
        came_.wait(lock, [this] { return fd_ >= 0; });
        return std::exchange(fd_, -1);
    }

  private:
    void Accept() {
        const std::string hello =
            R"({"op": "hello", "version": 1, "layout": ")" + LayoutText(LayoutSignature()) + "\"}";
        for (;;) {
            const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            if (fd < 0) {
                continue;
            }
            (void)send(fd, hello.data(), hello.size(), MSG_NOSIGNAL);
            std::lock_guard lock(mutex_);
            fd_ = fd;
            came_.notify_one();
        }
    }

    std::string path_;
    int listener_ = -1;
    std::mutex mutex_;
    std::condition_variable came_;
    int fd_ = -1; // guarded by mutex_
};

void Say(int fd, const std::string &text, int segment) {
    (void)SendWithDescriptor(fd, text.data(), text.size(), segment);
}

Greeting RightGreeting(HashKind kind, bool kept) {
    Greeting greeting;
    greeting.hash_kind = kind;
    greeting.filled = kept;
    greeting.store.fill('s');
    greeting.seed = kSeed;
    greeting.slots = kSlots;
    return greeting;
}

// What a coordinator might send as a directory: bit 0: of another store; bit 1: no
// memfd of the right kind; bit 2: with bytes of the input in its header.
void MakeDirectory(uint64_t what, HashKind kind, bool kept, Input *input, test::Fd *fd) {
    if (what & 2) {
        *fd->out() = memfd_create("nothing", MFD_CLOEXEC);
        return;
    }
    DirectoryConfig config;
    config.store_uuid.fill(what & 1 ? 'o' : 's');
    config.hash_kind = kind;
    config.seed = kSeed;
    config.gang_pages = 64;
    config.store_slots = what & 8 ? 2 * kSlots : kSlots;
    config.mirror_pages = 8;
    config.kept = kept;
    Check(Directory::Create(config, fd->out()).ok(), "a directory can be made");
    if (what & 4) {
        const uint64_t offset = input->Number(2) % sizeof(DirectoryHeader);
        const size_t n = input->Length(1);
        (void)!pwrite(fd->get(), input->Take(n), n, static_cast<off_t>(offset));
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static auto *const coordinator = new Coordinator; // its thread never ends
    Input input(data, size);
    const HashKind kind = KindOf(input.Number(1));
    SourceMemberConfig config;
    config.socket = coordinator->path();
    config.gang = "gang";
    config.member = "vm";
    config.channels = kChannels;
    config.ram_pages = kPages;
    config.cache_bytes = 4 * kPageSize;
    std::unique_ptr<SourceMember> member;
    Check(SourceMember::Create(config, &member).ok(), "the coordinator is there");
    int peer = coordinator->Take();

    test::GuestMemory memory(kPages);
    const std::vector<uint64_t> offsets = memory.offsets();
    SourceMember::Step step = SourceMember::Step::kWait;
    uint32_t sent[kChannels] = {}, acked[kChannels] = {};
    uint64_t deferred = 0;
    bool failed = false, asked = false;
    const bool kept = input.Number(1) & 1; // the store is that of an attempt before
    auto acknowledged = [&](uint16_t channel, uint32_t packet) {
        Check(channel < kChannels && packet == acked[channel] + 1 && packet <= sent[channel],
              "only what was sent is acknowledged, in turn");
        acked[channel]++;
    };
    for (int steps = 0; input.left() && steps < 200 && !failed; steps++) {
        const uint64_t what = input.Number(1);
        uint8_t message[kMaxReturnMessage];
        size_t n = 0;
        switch (what % 12) {
        case 0: // anything
            n = input.Length(1);
            memcpy(message, input.Take(n), n);
            failed = !member->ReturnMessage(message, n).ok();
            if (!failed && ReturnMessageType(message, n) == ReturnMessage::kAck) {
                acknowledged(static_cast<uint16_t>(message[2] << 8 | message[3]),
                             uint32_t{message[4]} << 24 | uint32_t{message[5]} << 16 |
                                 uint32_t{message[6]} << 8 | message[7]);
            }
            break;
        case 1: { // a greeting with some bytes changed
            const bool before = member->greeted();
            StoreGreeting(RightGreeting(kind, kept), message);
            for (uint64_t changes = what >> 4; changes; changes--) {
                message[input.Number(1) % kGreetingSize] ^= static_cast<uint8_t>(input.Number(1));
            }
            failed = !member->ReturnMessage(message, kGreetingSize).ok();
            Check(failed || !before, "nobody greets twice");
            break;
        }
        case 2: { // an acknowledgement of any packet
            const auto channel = static_cast<uint16_t>(input.Number(what & 64 ? 2 : 1));
            const auto packet = static_cast<uint32_t>(input.Number(what & 128 ? 4 : 1));
            StoreAck(channel, packet, message);
            failed = !member->ReturnMessage(message, kAckSize).ok();
            if (!failed) {
                acknowledged(channel, packet);
            }
            break;
        }
        case 3: // the acknowledgement that is due
            n = what >> 4 & 1;
            StoreAck(static_cast<uint16_t>(n), acked[n] + 1, message);
            failed = !member->ReturnMessage(message, kAckSize).ok();
            Check(failed == (acked[n] == sent[n]), "what was sent can be acknowledged");
            acked[n] += !failed;
            break;
        case 4: { // the coordinator says anything
            test::Fd segment;
            if (what & 64) {
                MakeDirectory(0, kind, kept, &input, &segment);
            }
            n = input.Length(2);
            const std::string text(reinterpret_cast<const char *>(input.Take(n)), n);
            Say(peer, text, segment.get());
            break;
        }
        case 5: { // what it should say, with a directory that may be none
            test::Fd segment;
            MakeDirectory(what >> 4, kind, kept, &input, &segment);
            Say(peer,
                R"({"op": "directory", "index": )" + std::to_string(input.Number(1)) +
                    R"(, "joined": 1, "missing": 0})",
                segment.get());
            break;
        }
        case 6:
            Say(peer, R"({"op": "start"})", -1);
            break;
        case 7:
            shutdown(peer, SHUT_RDWR);
            break;
        case 9:
            if (what & 64) { // what the store holds, whether asked for or not
                asked = member->WantsInventory() || asked;
                Hash hashes[kInventorySlots] = {};
                size_t count = 1 + input.Number(1) % kInventorySlots;
                for (size_t i = 0; i < count; i++) {
                    hashes[i] = {input.Number(1), 1};
                }
                if (what & 128) {
                    StoreInventoryEnd(static_cast<uint32_t>(input.Number(2)), input.Number(1),
                                      message);
                    count = kInventoryEndSize;
                } else {
                    count = StoreInventory(static_cast<uint32_t>(input.Number(what & 32 ? 4 : 1)),
                                           hashes, count, message);
                }
                failed = !member->ReturnMessage(message, count).ok();
                Check(failed || asked, "nothing is told that was not asked for");
                break;
            }
            [[fallthrough]];
        case 8:
            failed = !member->Advance(0, &step).ok();
            Check(failed || step == SourceMember::Step::kWait || member->greeted(),
                  "nothing happens before the greeting");
            break;
        case 10:
            if (step == SourceMember::Step::kScan) {
                member->Scan(memory.data(), offsets.data(), kPages, test::IsZero);
                member->ScanDone();
                step = SourceMember::Step::kWait;
            }
            break;
        case 11:
            if (step == SourceMember::Step::kRun) {
                const uint32_t channel = what >> 4 & 1;
                const uint64_t first = input.Number(1) % kPages;
                test::FillPage(memory.page(first), input.Number(1));
                EncodedPacket packet;
                Check(member
                          ->Encode(channel, "a", nullptr, memory.data(), offsets.data() + first,
                                   std::min<size_t>(kPages - first, 1 + (what >> 5)), test::IsZero,
                                   &packet)
                          .ok(),
                      "pages can be encoded");
                sent[channel] += !packet.empty();
                deferred += packet.deferred_pages;
                (void)member->DeferredReady();
                deferred -= member->TakeDeferred(
                    what & 128, [](void *, void *, uint64_t) {}, nullptr);
                Check(member->deferred() == deferred, "deferred pages are counted");
                member->SetProgress(what & 64, first, first);
            }
            break;
        }
        Check(member->in_flight() == uint64_t{sent[0]} + sent[1] - acked[0] - acked[1],
              "what is in flight is what was sent and not acknowledged");
    }
    member->Leave(failed ? LeaveResult::kFailed : LeaveResult::kCompleted);
    member.reset();
    close(peer);
    return 0;
}
