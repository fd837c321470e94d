// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What gangctl sees of a QEMU: a QMP socket with a VM's states behind it.

#ifndef GANG_FAKE_QEMU_H
#define GANG_FAKE_QEMU_H

#include <atomic>
#include <map>
#include <mutex>

#include "gangd_process.h"

namespace gang::test {

// A monitor on a thread.  Its migration takes `steps` looks at query-migrate;
// then it ends as `ends`.  Set the public members before Start().
class FakeQemu {
  public:
    FakeQemu(std::string path, bool destination)
        : run_state(destination ? "inmigrate" : "running"), path_(std::move(path)) {}
    ~FakeQemu() {
        stop_ = true;
        if (thread_.joinable()) {
            thread_.join();
        }
    }

    std::string run_state;
    std::string migration = "none";
    std::string name; // -name
    std::string ends = "completed";
    std::string error = "connection reset by peer"; // when it ends as failed
    std::string refuses;                            // this command, with an error
    std::string dies_at;                            // this command: no answer any more
    std::string silent_at;                          // this command: no answer, but it lives
    int steps = 3;                                  // -1: for ever, until cancelled
    std::map<std::string, json> answers; // to these commands, whatever else it would say
    std::vector<json> rams; // of one look at query-migrate after the other; the last stays
    int loads = 0; // looks at query-status while it still loads what has arrived
    bool has_gang = true;
    FakeQemu *arrives_at = nullptr; // which runs once this has completed

    void Start() {
        listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
        ASSERT_EQ(bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
        ASSERT_EQ(listen(listener_, 4), 0);
        thread_ = std::thread([this] { Serve(); });
    }
    const std::string &path() const { return path_; }
    // The arguments of the first such command, or null.
    json Asked(const std::string &command) {
        std::lock_guard lock(mutex_);
        for (const json &request : requests_) {
            if (request["execute"] == command) {
                return request.value("arguments", json::object());
            }
        }
        return nullptr;
    }
    void SetRunState(const std::string &state) {
        std::lock_guard lock(mutex_);
        run_state = state;
    }

  private:
    void Serve() {
        while (!stop_ && !dead_) {
            pollfd entry = {.fd = listener_, .events = POLLIN, .revents = 0};
            if (poll(&entry, 1, 20) == 1) {
                int fd = accept(listener_, nullptr, nullptr);
                Say(fd, {{"QMP", {{"version", json::object()}, {"capabilities", json::array()}}}});
                Talk(fd);
                close(fd);
            }
        }
        close(listener_);
    }
    void Talk(int fd) {
        std::string buffer;
        while (!stop_ && !dead_) {
            pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
            if (poll(&entry, 1, 20) != 1) {
                continue;
            }
            char bytes[4096];
            ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
            if (n <= 0) {
                return;
            }
            buffer.append(bytes, static_cast<size_t>(n));
            for (size_t end; (end = buffer.find('\n')) != std::string::npos;) {
                Answer(fd, json::parse(buffer.substr(0, end)));
                buffer.erase(0, end + 1);
            }
        }
    }
    static void Say(int fd, const json &message) {
        std::string text = message.dump() + "\r\n";
        (void)!send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    }
    void Answer(int fd, const json &request) {
        std::string command = request["execute"];
        std::unique_lock lock(mutex_);
        requests_.push_back(request);
        if (command == dies_at) {
            dead_ = true;
            return;
        }
        if (command == silent_at) {
            return;
        }
        Say(fd, {{"event", "NOISE"}, {"data", json::object()}}); // comes whenever it likes
        json answer = {{"id", request["id"]}};
        if (command == refuses) {
            answer["error"] = {{"class", "GenericError"}, {"desc", "refused by the test"}};
        } else {
            answer["return"] = Do(command);
        }
        lock.unlock();
        Say(fd, answer);
    }
    json Do(const std::string &command) {
        if (auto it = answers.find(command); it != answers.end()) {
            return it->second;
        }
        if (command == "query-status") {
            if (run_state == "running" && loads > 0) {
                loads--;
                return {{"status", "inmigrate"}};
            }
            return {{"status", run_state}};
        }
        if (command == "query-name") {
            return name.empty() ? json::object() : json{{"name", name}};
        }
        if (command == "query-commands") {
            json list = {{{"name", "migrate"}}};
            if (has_gang) {
                list.push_back({{"name", "gang-migrate"}});
                list.push_back({{"name", "gang-migrate-incoming"}});
            }
            return list;
        }
        if (command == "gang-migrate") {
            migration = "active";
        }
        if (command == "migrate_cancel" && migration == "active") {
            migration = "cancelled";
        }
        if (command == "query-migrate") {
            if (migration == "active" && steps >= 0 && steps-- == 0) {
                migration = ends;
                if (ends == "completed") {
                    run_state = "postmigrate";
                    if (arrives_at) {
                        arrives_at->SetRunState("running");
                    }
                }
            }
            json info = {{"status", migration}};
            if (migration == "failed") {
                info["error-desc"] = error;
            }
            if (migration == "active" || migration == "completed") {
                info["total-time"] = 1234;
                info["downtime"] = 56;
                info["ram"] = {{"total", 409600},   {"remaining", 40960}, {"transferred", 789},
                               {"page-size", 4096}, {"normal", 60},       {"duplicate", 30}};
                if (!rams.empty()) {
                    info["ram"].update(rams.front());
                    if (rams.size() > 1) {
                        rams.erase(rams.begin());
                    }
                }
            }
            return info;
        }
        if (command == "query-gang") {
            return {
                {"role", "source"},     {"phase", migration == "active" ? "scanning" : migration},
                {"zero-pages", 1},      {"literal-pages", 2},
                {"published-pages", 3}, {"referenced-pages", 4},
                {"saved-bytes", 5}};
        }
        return json::object();
    }

    const std::string path_;
    std::mutex mutex_;
    std::vector<json> requests_;
    std::atomic<bool> stop_ = false, dead_ = false;
    int listener_ = -1;
    std::thread thread_;
};

} // namespace gang::test

#endif
