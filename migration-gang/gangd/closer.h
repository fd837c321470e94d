// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Closes descriptors that strangers handed over.

#ifndef GANGD_CLOSER_H
#define GANGD_CLOSER_H

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>

namespace gangd {

// close() of a file on a file system that its sender serves (FUSE, NFS) returns when
// that one answers, which may be never: a thread waits there, not the main loop.
// Made before the system call filter, which lets no thread begin.
class Closer {
  public:
    Closer();
    // Leaves a thread that does not come back to the end of the process.
    ~Closer();
    Closer(const Closer &) = delete;
    Closer &operator=(const Closer &) = delete;

    // Takes over `fd`; -1 is none.
    void Close(int fd);
    // So many are not closed yet that no more should be taken.
    bool full();

  private:
    // Owned by both, so that whoever ends last frees it.
    struct Queue {
        std::mutex mutex;
        std::condition_variable changed;
        std::deque<int> fds; // the first one is being closed
        bool end = false;
    };
    std::shared_ptr<Queue> queue_;
};

} // namespace gangd

#endif
