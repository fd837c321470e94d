// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Keeps a member whose gang is under way known to its coordinator: when gangd is gone,
// another one will be there, and is told.

#ifndef GANG_CONTROL_KEEPER_H
#define GANG_CONTROL_KEEPER_H

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "control.h"

namespace gang {

// A thread of its own, which sleeps while the connection lives; when it ends, it tries
// once a second to connect to the same socket, and says `pieces` there.  It waits
// in poll() only, where it can be woken, so that Leave() and the destructor are
// quick, whatever gangd does.
class ControlKeeper {
  public:
    // One message that hands something back, in the order in which they are sent; each is
    // answered with "rejoined".
    struct Piece {
        nlohmann::json message;
        int fd = -1; // stays the caller's, and open as long as the keeper lives
    };

    // Takes over the connection of a member that has joined; it may be gone already.
    ControlKeeper(std::unique_ptr<ControlClient> client, std::string path,
                  std::vector<Piece> pieces);
    // Without Leave(): as if the member had died.
    ~ControlKeeper();
    ControlKeeper(const ControlKeeper &) = delete;
    ControlKeeper &operator=(const ControlKeeper &) = delete;

    // The last call: says farewell to whoever is there, waits for nobody.
    void Leave(LeaveResult result);

  private:
    void Run();
    void Connect();
    void Read();
    void Stop();

    const std::string path_;
    const std::vector<Piece> pieces_;
    // The thread's, once it runs.
    std::unique_ptr<ControlClient> client_;
    size_t answers_ = 0; // that are still to come
    int pause_ms_;
    int wake_; // eventfd
    std::thread thread_;
};

} // namespace gang

#endif
