// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What a coordinator knows, for people and for scripts.

#ifndef GANGCTL_VIEW_H
#define GANGCTL_VIEW_H

#include <cstdint>
#include <string>

namespace gangctl {

// Each returns the exit code.
int ShowStatus(const std::string &socket, bool as_json);
// Drops what is kept of `gang`, or of all ("").
int ForgetKept(const std::string &socket, const std::string &gang);
// Every `interval` seconds, `count` times or (0) until interrupted.
int WatchStatus(const std::string &socket, double interval, uint64_t count, bool as_json);

} // namespace gangctl

#endif
