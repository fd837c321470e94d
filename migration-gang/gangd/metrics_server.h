// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Answers whoever connects to the metrics socket with one text, by HTTP.

#ifndef GANGD_METRICS_SERVER_H
#define GANGD_METRICS_SERVER_H

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "status.h"

namespace gangd {

// Runs on GLib's default main context.  What a client asks for does not matter,
// and is not looked at: the answer is always the same text.  At most kMost
// clients at a time, each for kMostMs; more are turned away.
class MetricsServer {
  public:
    // `address`: the path of a unix socket (it holds a '/'), or 127.0.0.1:PORT or
    // [::1]:PORT; others are kInvalid.
    static gang::Status Open(const std::string &address, std::function<std::string()> text,
                             std::unique_ptr<MetricsServer> *out);
    // Removes the socket's file if it is still the one made here.
    ~MetricsServer();
    MetricsServer(const MetricsServer &) = delete;
    MetricsServer &operator=(const MetricsServer &) = delete;

  private:
    static constexpr size_t kMost = 16;
    static constexpr unsigned kMostMs = 5000;
    static constexpr size_t kMostRequest = 8192;
    static constexpr int64_t kFreshUs = 100'000; // for so long the same text will do

    struct Client {
        std::string request, answer;
        size_t sent = 0;
        unsigned watch = 0, timer = 0; // GLib sources
    };
    MetricsServer() = default;
    gang::Status ListenUnix(const std::string &path);
    gang::Status ListenTcp(const std::string &address);
    gang::Status Listen(const std::string &address);
    void Watch();
    void Accept();
    bool Read(int fd, Client *client); // false: it is over
    bool Write(int fd, Client *client);
    void End(int fd);

    std::function<std::string()> text_;
    std::map<int, Client> clients_;
    std::string body_; // the text as it was at made_us_
    int64_t made_us_ = 0;
    int fd_ = -1;
    unsigned watch_ = 0;
    std::string made_; // path of the socket's file
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

} // namespace gangd

#endif
