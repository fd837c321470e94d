// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What a message on the coordinator's socket may look like
// (docs/control-protocol.md): limits, names, and access to JSON that a hostile
// peer wrote.  Used by both ends, so that they cannot disagree.
//
// Nothing here throws for any input: text that is not JSON, is nested too deep,
// or has a member of another type than asked for gives false.

#ifndef GANG_CONTROL_MESSAGE_H
#define GANG_CONTROL_MESSAGE_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "layout.h"

namespace gang {

inline constexpr uint32_t kControlVersion = 1;
inline constexpr size_t kMaxControlMessage = 64 * 1024; // bytes of one message
inline constexpr int kMaxControlDepth = 16;             // nested objects and arrays
inline constexpr size_t kMaxControlName = 64;           // characters of a gang id or member name
inline constexpr const char *kDefaultControlSocket = "/run/gang/gangd.sock";

// Gang ids and member names: 1 to 64 of A-Z a-z 0-9 . _ : -
inline bool ValidName(std::string_view name) {
    if (name.empty() || name.size() > kMaxControlName) {
        return false;
    }
    for (char c : name) {
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '_' || c == ':' || c == '-';
        if (!good) {
            return false;
        }
    }
    return true;
}

inline std::string ToHex(const std::array<uint8_t, 16> &bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    text.reserve(2 * bytes.size());
    for (uint8_t byte : bytes) {
        text += kDigits[byte >> 4];
        text += kDigits[byte & 15];
    }
    return text;
}

// Exactly 32 hexadecimal digits of either case.
inline bool FromHex(std::string_view text, std::array<uint8_t, 16> *bytes) {
    if (text.size() != 2 * bytes->size()) {
        return false;
    }
    auto digit = [](char c) {
        if (c >= '0' && c <= '9') {
            return c - '0';
        }
        if (c >= 'a' && c <= 'f') {
            return c - 'a' + 10;
        }
        return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    };
    for (size_t i = 0; i < bytes->size(); i++) {
        int high = digit(text[2 * i]);
        int low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        (*bytes)[i] = static_cast<uint8_t>(high << 4 | low);
    }
    return true;
}

// The 16 hexadecimal digits of `hello`'s "layout".
inline std::string LayoutText(uint64_t signature) {
    std::array<uint8_t, 16> bytes{};
    for (int i = 0; i < 8; i++) {
        bytes[8 + i] = static_cast<uint8_t>(signature >> (56 - 8 * i));
    }
    return ToHex(bytes).substr(16);
}

// What HashKind is called in messages; nullptr: no such kind.
inline const char *HashKindName(HashKind kind) {
    switch (kind) {
    case HashKind::kXxh3_128:
        return "xxh3-128";
    case HashKind::kSha256:
        return "sha256";
    case HashKind::kInvalid:
        break;
    }
    return nullptr;
}

// For messages that name a kind.
inline std::string HashKindText(HashKind kind) {
    const char *name = HashKindName(kind);
    return name ? name : "unknown";
}

inline bool HashKindFromName(std::string_view name, HashKind *kind) {
    for (HashKind known : {HashKind::kXxh3_128, HashKind::kSha256}) {
        if (name == HashKindName(known)) {
            *kind = known;
            return true;
        }
    }
    return false;
}

// False unless `text` is one JSON object nested at most kMaxControlDepth deep.
// The depth is bounded because copying and printing a value recurse.
inline bool ParseMessage(std::string_view text, nlohmann::json *message) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > kMaxControlDepth) {
                return false;
            }
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    *message = nlohmann::json::parse(text, nullptr, false);
    return message->is_object();
}

// The text of a message.  Strings that are not UTF-8 are repaired, not thrown at.
inline std::string DumpMessage(const nlohmann::json &message) {
    return message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

inline bool GetString(const nlohmann::json &object, const char *key, std::string *value) {
    if (!object.is_object()) {
        return false;
    }
    auto it = object.find(key);
    if (it == object.end() || !it->is_string()) {
        return false;
    }
    *value = it->get_ref<const std::string &>();
    return true;
}

// A non-negative integer of at most `max`; 1.0 and "1" are not integers.
inline bool GetUint(const nlohmann::json &object, const char *key, uint64_t max, uint64_t *value) {
    if (!object.is_object()) {
        return false;
    }
    auto it = object.find(key);
    if (it == object.end() || !it->is_number_unsigned() || it->get<uint64_t>() > max) {
        return false;
    }
    *value = it->get<uint64_t>();
    return true;
}

} // namespace gang

#endif
