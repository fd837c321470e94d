// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A descriptor that goes along with bytes over a unix socket (SCM_RIGHTS).

#ifndef GANG_DESCRIPTOR_H
#define GANG_DESCRIPTOR_H

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstring>

namespace gang {

// Sends what fits of `size` bytes without waiting, as sendmsg() does, which also
// says what is returned and what errno is.  `fd` < 0: no descriptor; otherwise it
// goes with the first byte, and stays the caller's.
inline ssize_t SendWithDescriptor(int socket, const void *data, size_t size, int fd) {
    iovec part = {.iov_base = const_cast<void *>(data), .iov_len = size};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (fd >= 0) {
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &fd, sizeof(int));
    }
    return sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

} // namespace gang

#endif
