// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Ctrl-C and SIGTERM, as a count that loops look at.

#ifndef GANGCTL_INTERRUPT_H
#define GANGCTL_INTERRUPT_H

#include <csignal>

namespace gangctl {

inline volatile std::sig_atomic_t interrupts = 0;

// Waiting system calls return with EINTR.  SIGPIPE becomes an error of write().
inline void CatchInterrupts() {
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupts = interrupts + 1; };
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    signal(SIGPIPE, SIG_IGN);
}

inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

} // namespace gangctl

#endif
