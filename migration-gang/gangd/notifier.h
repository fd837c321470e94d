// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Words to the service manager: sd_notify(3), which opens a socket for each of
// them and so cannot be had in a process that may open none.

#ifndef GANGD_NOTIFIER_H
#define GANGD_NOTIFIER_H

#include <sys/un.h>

#include <string>

namespace gangd {

// Says nothing where there is no service manager.  Waits for nobody.
class Notifier {
  public:
    // Opens the socket for NOTIFY_SOCKET.
    Notifier();
    ~Notifier();
    Notifier(const Notifier &) = delete;
    Notifier &operator=(const Notifier &) = delete;

    // As "READY=1".
    void Say(const std::string &state) const;

  private:
    int fd_ = -1;
    sockaddr_un address_ = {};
    unsigned address_size_ = 0;
};

} // namespace gangd

#endif
