// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Waiting for a coordinator that comes back.

#include "control_keeper.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "control_message.h"

namespace gang {

using nlohmann::json;

namespace {

constexpr int kPauseMs = 1000;
constexpr int kLongestPauseMs = 30000; // between attempts that were refused

} // namespace

ControlKeeper::ControlKeeper(std::unique_ptr<ControlClient> client, std::string path,
                             std::vector<Piece> pieces)
    : path_(std::move(path)), pieces_(std::move(pieces)), client_(std::move(client)),
      pause_ms_(kPauseMs), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (wake_ < 0) {
        return; // what there is stays as it is: nobody looks for another coordinator
    }
    // The caller's signals are not for this thread.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        thread_ = std::thread([this] { Run(); });
    } catch (const std::system_error &) {
        // As above.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ControlKeeper::~ControlKeeper() {
    Stop();
    if (wake_ >= 0) {
        close(wake_);
    }
}

void ControlKeeper::Stop() {
    if (thread_.joinable()) {
        eventfd_write(wake_, 1);
        thread_.join();
    }
}

void ControlKeeper::Leave(LeaveResult result) {
    Stop();
    if (client_) {
        (void)client_->Leave(result);
    }
    client_.reset(); // if that got lost, gangd sees the end of the connection
}

void ControlKeeper::Run() {
    for (;;) {
        pollfd entries[2] = {{.fd = wake_, .events = POLLIN, .revents = 0},
                             {.fd = client_ ? client_->fd() : -1, .events = POLLIN, .revents = 0}};
        int n = poll(entries, 2, client_ ? -1 : pause_ms_);
        if (entries[0].revents) {
            return;
        }
        if (n == 0) {
            Connect();
        } else if (n > 0 && client_) {
            Read();
        }
    }
}

// Everything is said at once: nothing that is said later depends on an answer, and a
// coordinator of another build refuses the first word and all that follow.
void ControlKeeper::Connect() {
    if (!ControlClient::Connect(path_, 0, &client_).ok()) {
        client_.reset();
        return;
    }
    Status status = client_->SendHello("qemu", true, 0);
    for (const Piece &piece : pieces_) {
        if (status.ok()) {
            status = client_->Send(piece.message, 0, piece.fd);
        }
    }
    if (!status.ok()) {
        client_.reset();
        return;
    }
    answers_ = pieces_.size();
}

void ControlKeeper::Read() {
    json message;
    std::string text;
    switch (client_->Receive(&message, nullptr, 0)) {
    case Received::kTimeout:
        return;
    case Received::kMessage:
        if (!message.contains("error")) {
            if (answers_ > 0 && GetString(message, "op", &text) && text == "rejoined" &&
                --answers_ == 0) {
                pause_ms_ = kPauseMs;
            }
            return;
        }
        // Refused, now; asking again without end would only fill its log.
        pause_ms_ = std::min(2 * pause_ms_, kLongestPauseMs);
        break;
    case Received::kHangup:
    case Received::kError:
        break;
    }
    client_.reset();
}

} // namespace gang
