// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The three ways to show progress: see progress.h.

#include "progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "layout.h"
#include "text.h"

namespace gangctl {

using nlohmann::json;

namespace {

// Whether a VM's line is due: its phase changed, or a second has passed.
class Due {
  public:
    bool operator()(const Vm &vm) {
        Last &last = last_[vm.plan.name];
        std::string state = std::string(vm.status()) + "/" + vm.phase;
        int64_t now = NowMs();
        if (state == last.state && (vm.over() || now - last.ms < 1000)) {
            return false;
        }
        last = {state, now};
        return true;
    }

  private:
    struct Last {
        std::string state;
        int64_t ms = 0;
    };
    std::map<std::string, Last> last_;
};

// Bytes of pages that a reference stood in for.
double Shared(const Vm &vm) {
    return static_cast<double>(vm.referenced_pages) * gang::kPageSize;
}

std::string Figures(const Vm &vm) {
    return fmt::format("{:5.1f} %  {:>10} sent  {:>10}/s  {:>10} left  {} shared", vm.percent(),
                       Bytes(static_cast<double>(vm.wire_bytes)), Bytes(vm.rate),
                       Bytes(static_cast<double>(vm.remaining_bytes)), Bytes(Shared(vm)));
}

void PrintTable(const Vms &vms, const std::string &result) {
    fmt::print("\n{:<16} {:<10} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>10}  {}\n", "VM", "status",
               "total ms", "down ms", "wire", "zero", "literal", "published", "referenced",
               "now at");
    uint64_t wire = 0;
    for (const auto &vm : vms) {
        wire += vm->wire_bytes;
        std::string at = vm->at;
        if (!vm->run_state.empty()) {
            at += " (" + Plain(vm->run_state) + ")";
        }
        fmt::print("{:<16} {:<10} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>10}  {}\n", vm->plan.name,
                   vm->status(), vm->total_ms, vm->downtime_ms,
                   Bytes(static_cast<double>(vm->wire_bytes)), vm->zero_pages, vm->literal_pages,
                   vm->published_pages, vm->referenced_pages, at);
    }
    for (const auto &vm : vms) {
        if (!vm->error.empty()) {
            fmt::print("{}: {}\n", vm->plan.name, Plain(vm->error));
        }
    }
    fmt::print("gang {}: {} on the wire\n", result, Bytes(static_cast<double>(wire)));
}

class Lines : public Progress {
  public:
    void Note(const std::string &text) override { fmt::print("{}\n", Plain(text)); }
    void Problem(const std::string &text) override {
        fmt::print(stderr, "gangctl: {}\n", Plain(text));
    }
    void Update(const Vms &vms) override {
        for (const auto &vm : vms) {
            if (due_(*vm)) {
                fmt::print("{}: {}: {}\n", vm->plan.name, Plain(vm->phase), Figures(*vm));
            }
        }
        fflush(stdout);
    }
    void Finish(const Vms &vms, const std::string &result) override { PrintTable(vms, result); }

  private:
    Due due_;
};

class JsonLines : public Progress {
  public:
    void Note(const std::string &text) override { Put({{"event", "note"}, {"text", text}}); }
    void Problem(const std::string &text) override { Put({{"event", "problem"}, {"text", text}}); }
    void Refuse(const Vms &vms) override { Finish(vms, "failed"); }
    void Update(const Vms &vms) override {
        for (const auto &vm : vms) {
            if (due_(*vm)) {
                Put({{"event", "progress"},
                     {"vm", vm->plan.name},
                     {"status", vm->status()},
                     {"phase", vm->phase},
                     {"percent", vm->percent()},
                     {"wire_bytes", vm->wire_bytes},
                     {"bytes_per_second", static_cast<uint64_t>(vm->rate)},
                     {"remaining_bytes", vm->remaining_bytes},
                     {"referenced_pages", vm->referenced_pages}});
            }
        }
    }
    void Finish(const Vms &vms, const std::string &result) override {
        json list = json::array();
        for (const auto &vm : vms) {
            list.push_back({{"name", vm->plan.name},
                            {"status", vm->status()},
                            {"total_ms", vm->total_ms},
                            {"downtime_ms", vm->downtime_ms},
                            {"wire_bytes", vm->wire_bytes},
                            {"zero_pages", vm->zero_pages},
                            {"literal_pages", vm->literal_pages},
                            {"published_pages", vm->published_pages},
                            {"referenced_pages", vm->referenced_pages},
                            {"error", vm->error},
                            {"at", vm->at},
                            {"run_state", vm->run_state}});
        }
        Put({{"result", result}, {"vms", list}});
    }

  private:
    static void Put(const json &message) {
        fputs(JsonLine(message).c_str(), stdout);
        fflush(stdout);
    }
    Due due_;
};

// One bar a VM, redrawn in place.
class Bars : public Progress {
  public:
    void Note(const std::string &text) override { Above(stdout, Plain(text)); }
    void Problem(const std::string &text) override { Above(stderr, "gangctl: " + Plain(text)); }
    void Update(const Vms &vms) override {
        winsize size = {};
        size_t width = 80;
        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col) {
            width = size.ws_col;
        }
        // The rest of a line takes 73 columns and the bar what is left.
        const size_t bar = std::clamp<size_t>(width, 74 + 6, 74 + 24) - 74;
        std::string out = Up();
        for (const auto &vm : vms) {
            auto full = static_cast<size_t>(vm->percent() / 100 * static_cast<double>(bar));
            std::string line = fmt::format(
                "{:<10.10} {:<10.10} [{}{}] {:5.1f}% {:>6} {:>6}/s {:>6} left {:>6} shared",
                vm->plan.name, Plain(vm->phase), std::string(full, '#'),
                std::string(bar - full, '.'), vm->percent(),
                ShortBytes(static_cast<double>(vm->wire_bytes)), ShortBytes(vm->rate),
                ShortBytes(static_cast<double>(vm->remaining_bytes)), ShortBytes(Shared(*vm)));
            // A line that wraps could not be found again.
            out += line.substr(0, width - 1) + "\x1b[K\n";
        }
        fputs(out.c_str(), stdout);
        fflush(stdout);
        drawn_ = vms.size();
    }
    void Finish(const Vms &vms, const std::string &result) override {
        Update(vms);
        PrintTable(vms, result);
    }

  private:
    std::string Up() const { return drawn_ ? fmt::format("\x1b[{}A\r", drawn_) : ""; }
    // A message takes the place of the bars, which are drawn anew below it.
    void Above(FILE *file, const std::string &text) {
        fputs((Up() + (drawn_ ? "\x1b[J" : "")).c_str(), stdout);
        fflush(stdout);
        fmt::print(file, "{}\n", text);
        fflush(file);
        drawn_ = 0;
    }
    size_t drawn_ = 0;
};

} // namespace

std::unique_ptr<Progress> Progress::Create(bool as_json) {
    if (as_json) {
        return std::make_unique<JsonLines>();
    }
    const char *term = getenv("TERM");
    if (isatty(STDOUT_FILENO) && term && std::string(term) != "dumb") {
        return std::make_unique<Bars>();
    }
    return std::make_unique<Lines>();
}

} // namespace gangctl
