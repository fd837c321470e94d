// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gangd's flags and configuration file.

#ifndef GANGD_OPTIONS_H
#define GANGD_OPTIONS_H

#include <optional>
#include <string>

#include "server.h"

namespace gangd {

struct Options {
    std::string socket;
    std::string log_level;
    bool no_seccomp = false;
    std::string metrics; // where figures are served; empty: nowhere
    ServerConfig server;
};

// The process's exit status when there is nothing left to do: 0 after --help and
// --version, 2 after a flag, file or value that is not right (said on stderr).
std::optional<int> ParseOptions(int argc, char **argv, Options *options);

} // namespace gangd

#endif
