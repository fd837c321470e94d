// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The protocol of sd_notify(3): a datagram to the socket of that name.

#include "notifier.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace gangd {

Notifier::Notifier() {
    const char *name = getenv("NOTIFY_SOCKET");
    size_t size = name ? strlen(name) : 0;
    if (size < 2 || size >= sizeof(address_.sun_path) || (name[0] != '/' && name[0] != '@')) {
        return;
    }
    address_.sun_family = AF_UNIX;
    memcpy(address_.sun_path, name, size);
    if (name[0] == '@') { // the abstract namespace
        address_.sun_path[0] = '\0';
    }
    address_size_ = static_cast<unsigned>(offsetof(sockaddr_un, sun_path) + size);
    fd_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

Notifier::~Notifier() {
    if (fd_ >= 0) {
        close(fd_);
    }
}

void Notifier::Say(const std::string &state) const {
    if (fd_ >= 0) {
        (void)!sendto(fd_, state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                      reinterpret_cast<const sockaddr *>(&address_), address_size_);
    }
}

} // namespace gangd
