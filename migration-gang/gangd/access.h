// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Who may talk to gangd: decided by what the kernel says of the peer, never by
// what the peer says.

#ifndef GANGD_ACCESS_H
#define GANGD_ACCESS_H

#include <sys/types.h>

#include <set>
#include <string>

#include "status.h"

namespace gangd {

// A connected peer, by SO_PEERCRED: as it was when it connected.
struct PeerIdentity {
    pid_t pid = 0; // 0: of a pid namespace that we cannot see into
    uid_t uid = 0;
    gid_t gid = 0;
    std::set<gid_t> groups; // supplementary
};
gang::Status IdentifyPeer(int fd, PeerIdentity *peer);

// The allow-lists: root and the user gangd runs as may do all there is; others
// what they were added for.
class Access {
  public:
    // A name or a number; kInvalid for a name this host does not know.
    gang::Status AllowUser(const std::string &user);
    gang::Status AllowGroup(const std::string &group);
    // May see what gangs there are, and how far they are, but join none.
    gang::Status AllowOperator(const std::string &user);

    bool MayConnect(const PeerIdentity &peer) const { return MayJoin(peer) || MayWatch(peer); }
    bool MayJoin(const PeerIdentity &peer) const;
    // The status tells ids, names and sizes of everybody's gangs, and from one
    // look to the next how alike their VMs are: nothing for a tenant's QEMU.
    bool MayWatch(const PeerIdentity &peer) const;

  private:
    std::set<uid_t> users_;
    std::set<gid_t> groups_;
    std::set<uid_t> operators_;
};

} // namespace gangd

#endif
