// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The scan before the first round: which contents occur more than once.

#ifndef GANG_SCAN_H
#define GANG_SCAN_H

#include <cstddef>
#include <cstdint>

#include "directory.h"
#include "encoder.h"

namespace gang {

// Hashes `count` pages at `host + offsets[i]` into the directory and adds to
// the member's scan counters; with `features`, counts those of contents that are
// new too.  The guest may write the pages meanwhile: what is
// counted is a hint, never a reason not to read a page again.  Any number of
// threads at once.
void ScanPages(Directory *directory, uint32_t member, const uint8_t *host,
               const uint64_t *offsets, size_t count, IsZeroFn is_zero, bool features);

} // namespace gang

#endif
