// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A QEMU monitor: one command at a time, events skipped, every wait bounded.

#ifndef GANGCTL_QMP_CLIENT_H
#define GANGCTL_QMP_CLIENT_H

#include <cstdint>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "status.h"

namespace gangctl {

// One connection to a QMP socket.  One thread at a time.
//
// Errors: kInvalid is QEMU's refusal of a command (the connection goes on),
// kUnavailable a QEMU that went away or does not answer.
class QmpClient {
  public:
    // Connects, reads the greeting and leaves negotiation mode.
    static gang::Status Connect(const std::string &path, int timeout_ms,
                                std::unique_ptr<QmpClient> *out);
    ~QmpClient();
    QmpClient(const QmpClient &) = delete;
    QmpClient &operator=(const QmpClient &) = delete;

    // Sends a command; its answer is Receive()'s.  An earlier command's answer
    // that is still to come is skipped.
    gang::Status Send(const std::string &command, const nlohmann::json &arguments = {});
    // *ready is false when the answer has not come in time (0: does not wait).
    gang::Status Receive(nlohmann::json *result, bool *ready, int timeout_ms);
    // Both; no answer in time is kUnavailable.
    gang::Status Execute(const std::string &command, const nlohmann::json &arguments,
                         nlohmann::json *result, int timeout_ms = kTimeoutMs);

    // Gives QEMU a duplicate of `fd`, for commands that take it by this name.
    gang::Status PassFd(const std::string &name, int fd);

    int fd() const { return fd_; } // for poll()
    // "10.0.13" of the greeting; empty if it does not say.
    const std::string &version() const { return version_; }

    static constexpr int kTimeoutMs = 10000;

  private:
    QmpClient(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
    // The next complete line; *ready as above.
    gang::Status ReadLine(std::string *line, bool *ready, int64_t deadline_ms);
    gang::Status Gone(const std::string &why) const;
    // `pass`: a descriptor that goes along, or -1.
    gang::Status SendCommand(const std::string &command, const nlohmann::json &arguments,
                             int pass);

    int fd_;
    std::string path_;
    std::string version_;
    std::string buffer_;
    std::string command_;
    uint64_t id_ = 0;
};

// Milliseconds of a clock that never goes back.
int64_t NowMs();

} // namespace gangctl

#endif
