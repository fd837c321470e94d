// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Peer credentials and the allow-list.

#include "access.h"

#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <vector>

#include "layout.h"

namespace gangd {

namespace {

// A whole non-negative number below (uid_t)-1, which means "nobody in particular".
bool ParseId(const std::string &text, uint32_t *id) {
    const char *end = text.data() + text.size();
    auto [rest, error] = std::from_chars(text.data(), end, *id);
    return error == std::errc() && rest == end && *id != UINT32_MAX;
}

gang::Status AddUser(const char *option, const std::string &user, std::set<uid_t> *users) {
    uint32_t id = 0;
    if (!ParseId(user, &id)) {
        passwd *entry = getpwnam(user.c_str());
        if (!entry) {
            return {gang::Code::kInvalid,
                    std::string(option) + " " + user + ": no such user on this host"};
        }
        id = entry->pw_uid;
    }
    users->insert(id);
    return gang::Status::Ok();
}

bool IsPrivileged(const PeerIdentity &peer) {
    return peer.uid == 0 || peer.uid == geteuid();
}

} // namespace

gang::Status IdentifyPeer(int fd, PeerIdentity *peer) {
    ucred credentials = {};
    socklen_t size = sizeof(credentials);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
        return gang::Status::System("SO_PEERCRED", errno);
    }
    peer->pid = credentials.pid;
    peer->uid = credentials.uid;
    peer->gid = credentials.gid;
    // Linux 4.13 and later; without it only the primary group counts.
    std::vector<gid_t> groups(64);
    for (int attempt = 0; attempt < 2; attempt++) {
        size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) == 0) {
            peer->groups.insert(groups.begin(),
                                groups.begin() + static_cast<long>(size / sizeof(gid_t)));
            break;
        }
        if (errno != ERANGE) {
            break;
        }
        groups.resize(size / sizeof(gid_t));
    }
    return gang::Status::Ok();
}

gang::Status Access::AllowUser(const std::string &user) {
    return AddUser("allow-user", user, &users_);
}

gang::Status Access::AllowOperator(const std::string &user) {
    return AddUser("allow-operator", user, &operators_);
}

gang::Status Access::AllowGroup(const std::string &group) {
    uint32_t id = 0;
    if (!ParseId(group, &id)) {
        struct group *entry = getgrnam(group.c_str());
        if (!entry) {
            return {gang::Code::kInvalid, "allow-group " + group + ": no such group on this host"};
        }
        id = entry->gr_gid;
    }
    groups_.insert(id);
    return gang::Status::Ok();
}

bool Access::MayJoin(const PeerIdentity &peer) const {
    if (IsPrivileged(peer) || users_.count(peer.uid) || groups_.count(peer.gid)) {
        return true;
    }
    return std::any_of(peer.groups.begin(), peer.groups.end(),
                       [this](gid_t group) { return groups_.count(group) > 0; });
}

bool Access::MayWatch(const PeerIdentity &peer) const {
    return IsPrivileged(peer) || operators_.count(peer.uid);
}

} // namespace gangd
