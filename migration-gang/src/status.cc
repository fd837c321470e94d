// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Status from errno.

#include "status.h"

#include <system_error>

namespace gang {

Status Status::System(const std::string &what, int err) {
    return {Code::kSystem, what + ": " + std::generic_category().message(err)};
}

} // namespace gang
