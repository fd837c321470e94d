// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A thread and its queue.

#include "closer.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace gangd {

namespace {

constexpr size_t kMaxWaiting = 32;

} // namespace

Closer::Closer() : queue_(std::make_shared<Queue>()) {
    // Signals are the main loop's.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread([queue = queue_] {
        std::unique_lock lock(queue->mutex);
        for (;;) {
            queue->changed.wait(lock, [&] { return queue->end || !queue->fds.empty(); });
            if (queue->fds.empty()) {
                return;
            }
            const int fd = queue->fds.front();
            lock.unlock();
            close(fd);
            lock.lock();
            queue->fds.pop_front();
        }
    }).detach();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Closer::~Closer() {
    std::lock_guard lock(queue_->mutex);
    queue_->end = true;
    queue_->changed.notify_one();
}

void Closer::Close(int fd) {
    if (fd < 0) {
        return;
    }
    // What has seals is memory, whose close() waits for nobody.
    if (fcntl(fd, F_GET_SEALS) >= 0) {
        close(fd);
        return;
    }
    std::lock_guard lock(queue_->mutex);
    queue_->fds.push_back(fd);
    queue_->changed.notify_one();
}

bool Closer::full() {
    std::lock_guard lock(queue_->mutex);
    return queue_->fds.size() >= kMaxWaiting;
}

} // namespace gangd
