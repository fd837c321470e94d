// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Errors as values: a code for programs, a sentence that says what to do for
// people.  No exception crosses a boundary of this library.

#ifndef GANG_STATUS_H
#define GANG_STATUS_H

#include <string>
#include <utility>

namespace gang {

enum class Code {
    kOk = 0,
    kInvalid,      // the caller's or the peer's input is not valid
    kIncompatible, // another version, layout, page size or hash
    kSystem,       // a system call failed; the message holds strerror
    kCorrupt,      // bytes do not hash to what they should
    kUnavailable,  // no such coordinator, or it went away
    kExhausted,    // a configured limit is reached
};

// Immutable value; copyable, cheap when ok.
class [[nodiscard]] Status {
  public:
    Status() = default;
    Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
    static Status Ok() { return {}; }
    // "what: strerror(err)"
    static Status System(const std::string &what, int err);

    bool ok() const { return code_ == Code::kOk; }
    Code code() const { return code_; }
    const std::string &message() const { return message_; }

  private:
    Code code_ = Code::kOk;
    std::string message_;
};

} // namespace gang

#endif
