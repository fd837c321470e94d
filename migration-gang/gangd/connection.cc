// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// SOCK_SEQPACKET messages and descriptors on GLib's main loop.

#include "connection.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <spdlog/spdlog.h>

#include "control_message.h"
#include "descriptor.h"

namespace gangd {

namespace {

constexpr size_t kMaxQueue = 32;    // messages waiting for one client
constexpr int kMaxReadsInTurn = 16; // then others have theirs
constexpr unsigned kRefusalsInASecond = 20;

// Whether one more refusal may be logged in this second: a client that is
// refused without pause must not fill the log, nor wait for its reader.  Says how
// many were left out, when the next one may.
bool MayLogRefusal() {
    static int64_t second = 0;
    static unsigned logged = 0, left_out = 0;
    if (int64_t now = g_get_monotonic_time() / G_USEC_PER_SEC; now != second) {
        second = now;
        if (left_out) {
            spdlog::warn("{} more refusals were not logged", left_out);
        }
        logged = left_out = 0;
    }
    if (logged < kRefusalsInASecond) {
        logged++;
        return true;
    }
    left_out++;
    return false;
}

} // namespace

Connection::Connection(Owner *owner, int fd, const PeerIdentity &peer, const Pace &pace)
    : owner_(owner), fd_(fd), peer_(peer), pace_(pace) {
    read_source_ = g_unix_fd_add(
        fd, static_cast<GIOCondition>(G_IO_IN | G_IO_HUP | G_IO_ERR),
        [](int, GIOCondition, void *opaque) -> gboolean {
            static_cast<Connection *>(opaque)->OnReadable();
            return G_SOURCE_CONTINUE; // removed by Drop() if need be
        },
        this);
    ExpectWithin(pace_.hello_ms);
}

// A message comes whole or not at all, so that a slow client is one that says
// nothing.  A member is silent for as long as its migration takes.
void Connection::ExpectWithin(unsigned ms) {
    if (patience_source_) {
        g_source_remove(patience_source_);
    }
    patience_source_ = g_timeout_add(
        ms,
        [](void *opaque) -> gboolean {
            auto *self = static_cast<Connection *>(opaque);
            self->patience_source_ = 0;
            if (!self->greeted) {
                self->Refuse({"limit", "no 'hello' in " + std::to_string(self->pace_.hello_ms) +
                                           " ms (hello-timeout)"});
                self->Drop();
            } else if (!self->is_member()) {
                self->Refuse({"limit", "no request in " + std::to_string(self->pace_.idle_ms) +
                                           " ms, and no member (idle-timeout)"});
                self->Drop();
            }
            return G_SOURCE_REMOVE;
        },
        this);
}

Connection::~Connection() {
    RemoveSources();
    for (Message &message : queue_) {
        if (message.fd >= 0) {
            close(message.fd);
        }
    }
    // Closing with requests unread would reset the peer, which might then not
    // see our last words.
    char byte;
    for (int i = 0; i < kMaxReadsInTurn && recv(fd_, &byte, 1, MSG_DONTWAIT) > 0; i++) {
    }
    close(fd_);
}

void Connection::RemoveSources() {
    for (unsigned *source : {&read_source_, &write_source_, &patience_source_}) {
        if (*source) {
            g_source_remove(*source);
            *source = 0;
        }
    }
}

void Connection::Drop() {
    if (!dropped_) {
        dropped_ = true;
        RemoveSources();
        owner_->OnDropped(this);
    }
}

void Connection::Refuse(const Refusal &why) {
    if (MayLogRefusal()) {
        spdlog::warn("user {}, pid {}: {}: {}", uid(), pid(), why.code, why.text);
    }
    Send({{"error", why.text}, {"code", why.code}}, -1);
}

void Connection::Send(const nlohmann::json &message, int fd) {
    if (dropped_) {
        return;
    }
    if (queue_.size() >= kMaxQueue) {
        spdlog::warn("pid {}: does not read its messages: dropped", pid());
        Drop();
        return;
    }
    int copy = -1;
    if (fd >= 0) {
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0) {
            spdlog::error("pid {}: no descriptor to send it its memory: {}", pid(),
                          strerror(errno));
            Drop();
            return;
        }
    }
    queue_.push_back({gang::DumpMessage(message), copy});
    if (!write_source_) {
        Flush();
    }
}

void Connection::Flush() {
    while (!queue_.empty()) {
        Message &message = queue_.front();
        if (gang::SendWithDescriptor(fd_, message.text.data(), message.text.size(), message.fd) < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EAGAIN) {
                write_source_ = g_unix_fd_add(
                    fd_, G_IO_OUT,
                    [](int, GIOCondition, void *opaque) -> gboolean {
                        auto *self = static_cast<Connection *>(opaque);
                        self->write_source_ = 0;
                        self->Flush();
                        return G_SOURCE_REMOVE;
                    },
                    this);
                return;
            }
            if (errno != EPIPE && errno != ECONNRESET) {
                spdlog::warn("pid {}: cannot send: {}", pid(), strerror(errno));
                Drop();
                return;
            }
            // The peer closed; what it said before is still to be read, and then
            // the hang-up shows.
        }
        if (message.fd >= 0) {
            close(message.fd);
        }
        queue_.pop_front();
    }
}

void Connection::OnReadable() {
    for (int i = 0; i < kMaxReadsInTurn && !dropped_; i++) {
        if (!Read()) {
            return;
        }
    }
}

bool Connection::Overdone() {
    int64_t second = g_get_monotonic_time() / G_USEC_PER_SEC;
    if (second != second_) {
        second_ = second;
        requests_ = 0;
    }
    return ++requests_ > pace_.max_requests;
}

// Most requests carry no descriptor: without a place for them, the kernel closes
// those that come uninvited, which costs nobody time.  So a look at the message
// comes first.
ssize_t Connection::ReceiveMessage(std::string *text, int *fd) {
    *fd = -1;
    ssize_t n = recv(fd_, text->data(), text->size(), MSG_DONTWAIT | MSG_PEEK);
    if (n <= 0) {
        return n;
    }
    if (!owner_->TakesDescriptor(this, text->substr(0, static_cast<size_t>(n)))) {
        return recv(fd_, text->data(), text->size(), MSG_DONTWAIT);
    }
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec part = {.iov_base = text->data(), .iov_len = text->size()};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = CMSG_LEN(sizeof(int)); // for one: the kernel closes the others
    n = recvmsg(fd_, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    cmsghdr *rights = n >= 0 ? CMSG_FIRSTHDR(&header) : nullptr;
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
        memcpy(fd, CMSG_DATA(rights), sizeof(int));
    }
    return n;
}

bool Connection::Read() {
    // One byte more than a message may have shows one that has too many.
    std::string text(gang::kMaxControlMessage + 1, '\0');
    int fd;
    ssize_t n = ReceiveMessage(&text, &fd);
    if (n < 0) {
        if (errno == EINTR) {
            return true;
        }
        if (errno == EAGAIN) {
            return false;
        }
        // A peer that closed before it read all we sent shows as a reset first,
        // and only then gives what it had to say (as "leave").
        if (errno == ECONNRESET && !was_reset_) {
            was_reset_ = true;
            return true;
        }
    }
    if (n <= 0) {
        Drop();
        return false;
    }
    if (Overdone()) {
        owner_->OnUnread(fd);
        Refuse(
            {"limit", "more than " + std::to_string(pace_.max_requests) + " requests in a second"});
        Drop();
        return false;
    }
    if (static_cast<size_t>(n) > gang::kMaxControlMessage) {
        owner_->OnUnread(fd);
        Refuse({"protocol",
                "a message has at most " + std::to_string(gang::kMaxControlMessage) + " bytes"});
        Drop();
        return false;
    }
    text.resize(static_cast<size_t>(n));
    owner_->OnMessage(this, text, fd);
    if (greeted && !is_member() && !dropped_) {
        ExpectWithin(pace_.idle_ms);
    }
    return true;
}

} // namespace gangd
