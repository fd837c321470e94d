// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// How a gang's migration looks while it runs, and the report at its end.

#ifndef GANGCTL_PROGRESS_H
#define GANGCTL_PROGRESS_H

#include <memory>
#include <string>

#include "vm.h"

namespace gangctl {

// What goes to standard output: bars on a terminal, else one line per VM and
// change or second, or the same as JSON lines.
class Progress {
  public:
    static std::unique_ptr<Progress> Create(bool as_json);
    virtual ~Progress() = default;
    virtual void Note(const std::string &text) = 0;
    virtual void Problem(const std::string &text) = 0;
    virtual void Update(const Vms &vms) = 0; // some 4 times a second
    // Nothing was started; the problems have been said.
    virtual void Refuse(const Vms &) {}
    // All checks passed, and nothing was started.
    virtual void Ready(const Vms &vms);
    // `result`: "completed", "failed", "cancelled".
    virtual void Finish(const Vms &vms, const std::string &result) = 0;
};

} // namespace gangctl

#endif
