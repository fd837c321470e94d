// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Holes for pages, by fallocate.

#include "wiper.h"

#include <fcntl.h>
#include <glib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <spdlog/spdlog.h>

namespace gangd {

namespace {

constexpr int64_t kSlice = int64_t{64} << 20; // some 5 ms

} // namespace

Wiper::~Wiper() {
    if (source_) {
        g_source_remove(source_);
    }
    while (Step()) {
    }
}

void Wiper::Add(int fd) {
    segments_.push_back({fd, 0});
    if (!source_) {
        // Takes turns with the clients: they wait for a slice at most, and
        // those who ask without pause do not put it off.
        source_ = g_idle_add_full(
            G_PRIORITY_DEFAULT,
            [](void *opaque) -> gboolean {
                auto *self = static_cast<Wiper *>(opaque);
                if (self->Step()) {
                    return G_SOURCE_CONTINUE;
                }
                self->source_ = 0;
                return G_SOURCE_REMOVE;
            },
            this, nullptr);
    }
}

bool Wiper::Has(int fd) const {
    struct stat wanted;
    return fstat(fd, &wanted) == 0 &&
           std::any_of(segments_.begin(), segments_.end(), [&](const Segment &segment) {
               struct stat own;
               return fstat(segment.fd, &own) == 0 && own.st_dev == wanted.st_dev &&
                      own.st_ino == wanted.st_ino;
           });
}

bool Wiper::Step() {
    if (segments_.empty()) {
        return false;
    }
    Segment &segment = segments_.front();
    // Segments are sparse: only what is there has to go.  A member that moves
    // the file's position meanwhile changes nothing, and one that writes again
    // behind us writes what is its own.
    int64_t data = lseek(segment.fd, segment.done, SEEK_DATA);
    if (data >= segment.done) {
        if (fallocate(segment.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, data, kSlice) == 0) {
            segment.done = data + kSlice;
            return true;
        }
        if (errno == EINTR) {
            return true;
        }
        spdlog::error("cannot wipe the memory of a gang that ended: {}", strerror(errno));
    }
    close(segment.fd);
    segments_.pop_front();
    return !segments_.empty();
}

} // namespace gangd
