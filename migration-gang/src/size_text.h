// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Byte counts as people write them on command lines and in configuration files.

#ifndef GANG_SIZE_TEXT_H
#define GANG_SIZE_TEXT_H

#include <cstdint>
#include <string_view>

namespace gang {

// "4096", "64K", "64KiB", "8M", "2G", "1T": powers of 1024, either case, with or
// without "iB" or "B".  False for anything else and for what passes 2^63 - 1.
inline bool ParseSize(std::string_view text, uint64_t *bytes) {
    uint64_t value = 0;
    size_t i = 0;
    for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; i++) {
        value = value * 10 + static_cast<uint64_t>(text[i] - '0');
        if (value > INT64_MAX / 16) {
            return false;
        }
    }
    if (i == 0) {
        return false;
    }
    auto lower = [&](size_t at) { return at < text.size() ? text[at] | 0x20 : 0; };
    static constexpr std::string_view kUnits = "kmgt";
    int shift = 0;
    if (size_t unit = kUnits.find(static_cast<char>(lower(i)));
        i < text.size() && unit != std::string_view::npos) {
        shift = 10 * (static_cast<int>(unit) + 1);
        i++;
        if (lower(i) == 'i' && lower(i + 1) == 'b') {
            i += 2;
        } else if (lower(i) == 'b') {
            i++;
        }
    } else if (lower(i) == 'b') {
        i++;
    }
    if (i != text.size() || value > (static_cast<uint64_t>(INT64_MAX) >> shift)) {
        return false;
    }
    *bytes = value << shift;
    return true;
}

} // namespace gang

#endif
