// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Figures and foreign strings as they are shown to people.

#ifndef GANGCTL_TEXT_H
#define GANGCTL_TEXT_H

#include <cstdint>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace gangctl {

// "123 B", "4.0 KiB", "1.2 GiB"
inline std::string Bytes(double bytes) {
    static constexpr const char *kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
        bytes /= 1024;
        unit++;
    }
    return unit ? fmt::format("{:.1f} {}", bytes, kUnits[unit]) : fmt::format("{:.0f} B", bytes);
}

// At most six characters: "123", "4.0K", "999M".
inline std::string ShortBytes(double bytes) {
    static constexpr const char *kUnits[] = {"", "K", "M", "G", "T"};
    size_t unit = 0;
    while (bytes >= 1000 && unit + 1 < std::size(kUnits)) {
        bytes /= 1024;
        unit++;
    }
    return unit && bytes < 100 ? fmt::format("{:.1f}{}", bytes, kUnits[unit])
                               : fmt::format("{:.0f}{}", bytes, kUnits[unit]);
}

// What another program said, without what would command the terminal.
inline std::string Plain(std::string text) {
    for (char &c : text) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            c = ' ';
        }
    }
    return text;
}

inline std::string JsonLine(const nlohmann::json &message) {
    return message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

} // namespace gangctl

#endif
