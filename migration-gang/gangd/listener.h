// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The socket gangd listens at: made here or handed over by the service manager.

#ifndef GANGD_LISTENER_H
#define GANGD_LISTENER_H

#include <sys/types.h>

#include <memory>
#include <string>

#include "status.h"

namespace gangd {

// Owns the listening descriptor and, when it made it, the socket's file.
class Listener {
  public:
    // Takes the place of a socket that a dead gangd left behind; refuses
    // (kInvalid) one that somebody serves, and files that are no socket.
    static gang::Status Open(const std::string &path, std::unique_ptr<Listener> *out);
    // Takes the one socket that systemd passed; *out stays empty if it passed
    // none.  kInvalid for anything but one listening SOCK_SEQPACKET.
    static gang::Status Inherit(std::unique_ptr<Listener> *out);
    // Removes the file if it is still the one made here.
    ~Listener();
    Listener(const Listener &) = delete;
    Listener &operator=(const Listener &) = delete;

    int fd() const { return fd_; }
    // For the log.
    const std::string &name() const { return name_; }

  private:
    Listener() = default;
    gang::Status Bind();
    gang::Status RemoveStale() const;

    std::string name_;
    int fd_ = -1;
    int lock_fd_ = -1;
    bool made_ = false;
    dev_t device_ = 0; // of the file made here
    ino_t inode_ = 0;
};

} // namespace gangd

#endif
