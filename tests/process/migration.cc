// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Source and destination of a simulated VM.

#include "migration.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>

#include "scan.h"

namespace gang::process {

namespace {

constexpr size_t kPacketPages = 64;
constexpr uint64_t kStallMs = 60;
constexpr const char *kBlock = "pc.ram";

struct Frame {
    uint32_t size;
    uint8_t channel;
};

uint64_t NowMs() {
    using namespace std::chrono;
    return static_cast<uint64_t>(
        duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count());
}

// Thrown inside one process only: its end is an exit code.
struct PeerGone {};

class Source {
  public:
    Source(Vm *vm, uint32_t member, int socket, uint64_t seed)
        : vm_(vm), member_(member), socket_(socket), rng_(seed) {}

    Status Run(int directory_fd) {
        Status status = Directory::Open(directory_fd, &directory_);
        if (!status.ok()) {
            return status;
        }
        fcntl(socket_, F_SETFL, O_NONBLOCK);
        stalls_ = std::make_unique<StallWatch>(directory_.get(), kStallMs);
        for (uint32_t c = 0; c < kChannels; c++) {
            EncoderOptions options;
            options.encoding =
                test::Below(rng_, 2) ? PayloadEncoding::kRaw : PayloadEncoding::kZstd;
            status = Encoder::Create(directory_.get(), stalls_.get(), member_, c, options,
                                     &encoders_[c]);
            if (!status.ok()) {
                return status;
            }
        }
        uint64_t offsets[kVmPages];
        for (size_t i = 0; i < kVmPages; i++) {
            offsets[i] = i * kPageSize;
        }
        ScanPages(directory_.get(), member_, vm_->source[0], offsets, kVmPages, test::IsZero,
                  true);

        vm_->cpu = Cpu::kRuns;
        for (int round = 0; round < 2 || !vm_->finish; round++) {
            status = Round(true);
            if (!status.ok()) {
                return status;
            }
            TakeDeferred(false);
            ReadAcks(static_cast<int>(test::Below(rng_, 4)));
        }
        vm_->cpu = Cpu::kStopWanted;
        while (vm_->cpu != Cpu::kStopped) {
            ReadAcks(1);
        }
        TakeDeferred(true);
        status = Round(false);
        while (status.ok() && (acked_[0] != sent_[0] || acked_[1] != sent_[1])) {
            ReadAcks(10);
        }
        return status;
    }

  private:
    // Sends what is dirty now.
    Status Round(bool defer) {
        for (size_t w = 0; w < kDirtyWords; w++) {
            uint64_t word = vm_->dirty[w].exchange(0);
            uint64_t offsets[kPacketPages];
            size_t n = 0;
            for (size_t bit = 0; bit < 64; bit++) {
                if (word >> bit & 1) {
                    offsets[n++] = (w * 64 + bit) * kPageSize;
                }
            }
            // Packets of every size.
            for (size_t i = 0; i < n;) {
                size_t count = 1 + test::Below(rng_, n - i);
                Status status = SendPacket(offsets + i, count, defer);
                if (!status.ok()) {
                    return status;
                }
                i += count;
            }
        }
        return Status::Ok();
    }

    Status SendPacket(const uint64_t *offsets, size_t count, bool defer) {
        const auto channel = static_cast<uint8_t>(test::Below(rng_, kChannels));
        EncodedPacket packet;
        Status status =
            encoders_[channel]->Encode(kBlock, vm_, vm_->source[0], offsets, count, test::IsZero,
                                       defer ? &deferred_ : nullptr, &packet);
        if (!status.ok() || packet.empty()) {
            return status;
        }
        sent_[channel]++;
        test::Bytes bytes = test::Flatten(packet);
        Frame frame = {static_cast<uint32_t>(bytes.size()), channel};
        Write(&frame, sizeof(frame));
        Write(bytes.data(), bytes.size());
        return Status::Ok();
    }

    // Reads acknowledgements meanwhile, or two full buffers would wait for each other.
    void Write(const void *data, size_t size) {
        const auto *p = static_cast<const uint8_t *>(data);
        while (size) {
            ssize_t n = send(socket_, p, size, MSG_NOSIGNAL);
            if (n > 0) {
                p += n;
                size -= static_cast<size_t>(n);
            } else if (errno == EAGAIN) {
                pollfd wait = {socket_, POLLIN | POLLOUT, 0};
                poll(&wait, 1, 100);
                ReadAcks(0);
            } else if (errno != EINTR) {
                throw PeerGone{};
            }
        }
    }

    void ReadAcks(int timeout_ms) {
        pollfd wait = {socket_, POLLIN, 0};
        if (poll(&wait, 1, timeout_ms) > 0) {
            uint8_t buffer[1024];
            ssize_t n = recv(socket_, buffer, sizeof(buffer), MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
                throw PeerGone{};
            }
            for (ssize_t i = 0; i < n; i++) {
                partial_[partial_size_++] = buffer[i];
                if (partial_size_ == kAckSize) {
                    Ack();
                    partial_size_ = 0;
                }
            }
        }
        stalls_->Observe(NowMs());
    }

    void Ack() {
        uint16_t channel;
        uint32_t packet;
        if (ParseAck(partial_, kAckSize, &channel, &packet).ok() && channel < kChannels &&
            packet == acked_[channel] + 1 && packet <= sent_[channel]) {
            acked_[channel] = packet;
            directory_->SetAcked(member_, channel, packet);
        } else {
            snprintf(vm_->error, sizeof(vm_->error), "an acknowledgement out of turn");
            _exit(kExitError);
        }
    }

    void TakeDeferred(bool all) {
        std::erase_if(deferred_, [&](const Deferred &page) {
            bool ready = all || Decidable(*directory_, stalls_.get(), page);
            if (ready) {
                size_t number = page.offset / kPageSize;
                vm_->dirty[number / 64].fetch_or(uint64_t{1} << number % 64);
            }
            return ready;
        });
    }

    Vm *vm_;
    uint32_t member_;
    int socket_;
    test::Rng rng_;
    std::unique_ptr<Directory> directory_;
    std::unique_ptr<StallWatch> stalls_;
    std::unique_ptr<Encoder> encoders_[kChannels];
    std::vector<Deferred> deferred_;
    uint32_t sent_[kChannels] = {}, acked_[kChannels] = {};
    uint8_t partial_[kAckSize];
    size_t partial_size_ = 0;

    friend int gang::process::RunSource(Vm *, int, uint32_t, int, uint64_t);
};

class Destination {
  public:
    Destination(Vm *vm, int socket, uint64_t seed) : vm_(vm), socket_(socket), rng_(seed) {}

    Status Run(int store_fd) {
        Status status = Store::Open(store_fd, &store_);
        for (auto &decoder : decoders_) {
            if (status.ok()) {
                status = Decoder::Create(store_.get(), &decoder);
            }
        }
        Frame frame;
        test::Bytes packet;
        while (status.ok() && Read(&frame, sizeof(frame))) {
            packet.resize(frame.size);
            if (!Read(packet.data(), packet.size())) {
                break;
            }
            uint32_t number;
            status = test::Apply(
                decoders_[frame.channel].get(), packet,
                [&](const std::string &) {
                    return test::BlockAt{vm_->destination[0], sizeof(vm_->destination)};
                },
                &number);
            if (status.ok()) {
                acks_.push_back({frame.channel, number});
            }
            // Some are sent at once, some after more packets have come.
            if (test::Below(rng_, 2)) {
                SendAcks();
            }
            if (test::Below(rng_, 64) == 0) {
                usleep(static_cast<useconds_t>(test::Below(rng_, 3000)));
            }
        }
        return status;
    }

  private:
    // False: the source is no more.
    bool Read(void *data, size_t size) {
        auto *p = static_cast<uint8_t *>(data);
        while (size) {
            pollfd wait = {socket_, POLLIN, 0};
            if (!acks_.empty() && poll(&wait, 1, 1) == 0) {
                SendAcks();
            }
            ssize_t n = recv(socket_, p, size, 0);
            if (n == 0 || (n < 0 && errno != EINTR)) {
                return false;
            }
            if (n > 0) {
                p += n;
                size -= static_cast<size_t>(n);
            }
        }
        return true;
    }

    void SendAcks() {
        for (; !acks_.empty(); acks_.pop_front()) {
            uint8_t bytes[kAckSize];
            StoreAck(acks_.front().channel, acks_.front().number, bytes);
            if (send(socket_, bytes, sizeof(bytes), MSG_NOSIGNAL) != sizeof(bytes)) {
                acks_.clear(); // the end of the stream will show
                return;
            }
        }
    }

    struct PendingAck {
        uint16_t channel;
        uint32_t number;
    };

    Vm *vm_;
    int socket_;
    test::Rng rng_;
    std::unique_ptr<Store> store_;
    std::unique_ptr<Decoder> decoders_[kChannels];
    std::deque<PendingAck> acks_;
};

int Report(Vm *vm, const char *who, const Status &status) {
    snprintf(vm->error, sizeof(vm->error), "%s: %s", who, status.message().c_str());
    return kExitError;
}

} // namespace

int RunSource(Vm *vm, int directory_fd, uint32_t member, int socket, uint64_t seed) {
    Source source(vm, member, socket, seed);
    int result = kExitDone;
    try {
        Status status = source.Run(directory_fd);
        if (!status.ok()) {
            return Report(vm, "source", status);
        }
        vm->completed = 1;
    } catch (const PeerGone &) {
        result = kExitPeerGone;
    }
    source.directory_->SetMemberState(member, MemberState::kLeft);
    return result;
}

int RunDestination(Vm *vm, int store_fd, int socket, uint64_t seed) {
    Status status = Destination(vm, socket, seed).Run(store_fd);
    return status.ok() ? kExitDone : Report(vm, "destination", status);
}

} // namespace gang::process
