// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Binding, stale sockets, socket activation.

#include "listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace gangd {

using gang::Code;
using gang::Status;

namespace {

// Long, so that those who may not come in do not keep out those who may; the
// kernel has a limit of its own (net.core.somaxconn).
constexpr int kBacklog = 4096;

bool FillAddress(const std::string &path, sockaddr_un *address) {
    *address = {};
    address->sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address->sun_path) ||
        path.find('\0') != std::string::npos) {
        return false;
    }
    memcpy(address->sun_path, path.data(), path.size());
    return true;
}

} // namespace

Status Listener::Inherit(std::unique_ptr<Listener> *out) {
    int passed = sd_listen_fds(1);
    if (passed < 0) {
        return Status::System("socket activation", -passed);
    }
    if (passed == 0) {
        return Status::Ok();
    }
    if (passed > 1 || sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_SEQPACKET, 1, nullptr, 0) <= 0) {
        return {Code::kInvalid, "socket activation needs exactly one listening unix socket of type "
                                "SOCK_SEQPACKET (ListenSequentialPacket= in gangd.socket)"};
    }
    std::unique_ptr<Listener> listener(new Listener());
    listener->fd_ = SD_LISTEN_FDS_START;
    listener->name_ = "the service manager's socket";
    fcntl(listener->fd_, F_SETFL, fcntl(listener->fd_, F_GETFL) | O_NONBLOCK);
    *out = std::move(listener);
    return Status::Ok();
}

Status Listener::Open(const std::string &path, std::unique_ptr<Listener> *out) {
    std::unique_ptr<Listener> listener(new Listener());
    listener->name_ = path;
    Status status = listener->Bind();
    if (status.ok()) {
        *out = std::move(listener);
    }
    return status;
}

Status Listener::Bind() {
    sockaddr_un address;
    if (!FillAddress(name_, &address)) {
        return {Code::kInvalid, "--socket needs a path of 1 to " +
                                    std::to_string(sizeof(address.sun_path) - 1) + " bytes"};
    }
    // /run is empty after a boot; only the last directory is made.
    size_t slash = name_.rfind('/');
    if (slash != std::string::npos && slash > 0) {
        mkdir(name_.substr(0, slash).c_str(), 0755);
    }
    // Of two that start at once and both find a stale socket, one must not
    // remove what the other has just made.
    std::string lock = name_ + ".lock";
    lock_fd_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock_fd_ < 0) {
        return Status::System("cannot create " + lock, errno);
    }
    if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
        return {Code::kInvalid,
                "another gangd serves " + name_ + ": stop it, or choose another --socket"};
    }
    fd_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd_ < 0) {
        return Status::System("cannot make a unix socket", errno);
    }
    auto *plain = reinterpret_cast<sockaddr *>(&address);
    if (bind(fd_, plain, sizeof(address)) != 0) {
        if (errno != EADDRINUSE) {
            return Status::System("cannot listen at " + name_, errno);
        }
        if (Status status = RemoveStale(); !status.ok()) {
            return status;
        }
        if (bind(fd_, plain, sizeof(address)) != 0) {
            return Status::System("cannot listen at " + name_, errno);
        }
    }
    struct stat st;
    if (lstat(name_.c_str(), &st) == 0) {
        made_ = true;
        device_ = st.st_dev;
        inode_ = st.st_ino;
    }
    // Everybody may knock; SO_PEERCRED decides who is let in.
    if (chmod(name_.c_str(), 0666) != 0 || listen(fd_, kBacklog) != 0) {
        return Status::System("cannot listen at " + name_, errno);
    }
    return Status::Ok();
}

Status Listener::RemoveStale() const {
    struct stat st;
    if (lstat(name_.c_str(), &st) == 0 && !S_ISSOCK(st.st_mode)) {
        return {Code::kInvalid, name_ + " exists and is not a socket: choose another --socket"};
    }
    sockaddr_un address;
    FillAddress(name_, &address);
    int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) {
        return Status::System("cannot make a unix socket", errno);
    }
    int connected = connect(probe, reinterpret_cast<sockaddr *>(&address), sizeof(address));
    int error = connected == 0 ? 0 : errno;
    close(probe);
    if (error != ECONNREFUSED && error != ENOENT) {
        return {Code::kInvalid, "somebody serves " + name_ +
                                    " already (another gangd, or systemd's gangd.socket): stop it, "
                                    "or choose another --socket"};
    }
    if (unlink(name_.c_str()) != 0 && errno != ENOENT) {
        return Status::System("cannot remove the stale " + name_, errno);
    }
    return Status::Ok();
}

Listener::~Listener() {
    struct stat st;
    if (made_ && lstat(name_.c_str(), &st) == 0 && st.st_dev == device_ && st.st_ino == inode_) {
        unlink(name_.c_str());
    }
    if (fd_ >= 0) {
        close(fd_);
    }
    if (lock_fd_ >= 0) {
        close(lock_fd_); // the file stays: removing a lock file is a race
    }
}

} // namespace gangd
