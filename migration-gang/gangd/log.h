// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Where gangd's log goes: stderr, in the form its reader understands.

#ifndef GANGD_LOG_H
#define GANGD_LOG_H

#include <string>

namespace gangd {

// With journald at the other end of stderr, lines begin with their priority
// (<6>, see sd-daemon(3)) and have no time, which journald adds; for people at a
// terminal they begin with the time and a word.  `level`: debug, info, warning
// or error.
void SetUpLog(const std::string &level);

} // namespace gangd

#endif
