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

#include "figures.h"
#include "layout.h"
#include "text.h"

namespace gangctl {

using nlohmann::json;

namespace {

// Whether a line is due: the state changed, or a second has passed.
class Due {
  public:
    bool operator()(const std::string &name, const std::string &state, bool over) {
        Last &last = last_[name];
        int64_t now = NowMs();
        if (state == last.state && (over || now - last.ms < 1000)) {
            return false;
        }
        last = {state, now};
        return true;
    }
    bool operator()(const Vm &vm) {
        return (*this)(vm.plan.name, std::string(vm.status()) + "/" + vm.phase, vm.over());
    }
    bool operator()(const GangFigures &gang) { // no VM has this name
        return (*this)("", gang.phase, gang.phase == "ended");
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

std::string ToGo(int64_t left_ms) {
    return left_ms < 0 ? "end not known" : fmt::format("{} s to go", (left_ms + 999) / 1000);
}

std::string Figures(double percent, uint64_t wire, uint64_t saved, uint64_t left, double rate,
                    double dirty, int64_t left_ms) {
    return fmt::format("{:5.1f} %  {:>10} sent  {:>10} saved  {:>10} left  {:>10}/s  {:>10}/s "
                       "dirty  {}",
                       percent, Bytes(static_cast<double>(wire)), Bytes(static_cast<double>(saved)),
                       Bytes(static_cast<double>(left)), Bytes(rate), Bytes(dirty), ToGo(left_ms));
}

std::string Figures(const Vm &vm) {
    return Figures(vm.percent(), vm.wire_bytes, vm.saved_bytes, vm.remaining_bytes, vm.rate,
                   vm.dirty_rate, vm.over() ? 0 : vm.left_ms) +
           fmt::format("  round {}", vm.round);
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
    if (Skew skew = SkewOf(vms); skew.stopped + skew.late) {
        fmt::print("{} VMs stopped within {:.1f} ms, {} later\n", skew.stopped, skew.ms, skew.late);
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
        GangFigures gang = meter_.Look(vms);
        if (vms.size() > 1 && due_(gang)) {
            fmt::print("gang: {}: {}\n", Plain(gang.phase),
                       Figures(gang.percent, gang.wire_bytes, gang.saved_bytes,
                               gang.remaining_bytes, gang.rate, gang.dirty_rate, gang.left_ms));
        }
        fflush(stdout);
    }
    void Finish(const Vms &vms, const std::string &result) override { PrintTable(vms, result); }

  private:
    Due due_;
    GangMeter meter_;
};

class JsonLines : public Progress {
  public:
    void Note(const std::string &text) override { Put({{"event", "note"}, {"text", text}}); }
    void Problem(const std::string &text) override { Put({{"event", "problem"}, {"text", text}}); }
    void Refuse(const Vms &vms) override { Finish(vms, "failed"); }
    void Ready(const Vms &) override { Put({{"result", "ready"}}); }
    void Update(const Vms &vms) override {
        for (const auto &vm : vms) {
            if (due_(*vm)) {
                json event = FiguresJson(*vm);
                event["event"] = "progress";
                event["vm"] = vm->plan.name;
                Put(event);
            }
        }
        if (GangFigures gang = meter_.Look(vms); due_(gang)) {
            json event = FiguresJson(gang);
            event["event"] = "gang";
            Put(event);
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
                            {"saved_bytes", vm->saved_bytes},
                            {"zero_pages", vm->zero_pages},
                            {"literal_pages", vm->literal_pages},
                            {"published_pages", vm->published_pages},
                            {"referenced_pages", vm->referenced_pages},
                            {"error", vm->error},
                            {"at", vm->at},
                            {"run_state", vm->run_state}});
        }
        json end = {{"result", result}, {"vms", list}};
        if (Skew skew = SkewOf(vms); skew.stopped + skew.late) {
            end["switchover"] = {
                {"stopped", skew.stopped}, {"late", skew.late}, {"skew_ms", skew.ms}};
        }
        Put(end);
    }

  private:
    static void Put(const json &message) {
        fputs(JsonLine(message).c_str(), stdout);
        fflush(stdout);
    }
    Due due_;
    GangMeter meter_;
};

// One bar a VM and one for the gang, redrawn in place.
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
        auto line = [&](const std::string &name, const std::string &phase, double percent,
                        uint64_t wire, double rate, uint64_t left, const std::string &last) {
            auto full = static_cast<size_t>(percent / 100 * static_cast<double>(bar));
            std::string text =
                fmt::format("{:<10.10} {:<10.10} [{}{}] {:5.1f}% {:>6} {:>6}/s {:>6} left {}", name,
                            Plain(phase), std::string(full, '#'), std::string(bar - full, '.'),
                            percent, ShortBytes(static_cast<double>(wire)), ShortBytes(rate),
                            ShortBytes(static_cast<double>(left)), last);
            // A line that wraps could not be found again.
            out += text.substr(0, width - 1) + "\x1b[K\n";
        };
        for (const auto &vm : vms) {
            line(vm->plan.name, vm->phase, vm->percent(), vm->wire_bytes, vm->rate,
                 vm->remaining_bytes, fmt::format("{:>6} shared", ShortBytes(Shared(*vm))));
        }
        GangFigures gang = meter_.Look(vms);
        line("gang", gang.phase, gang.percent, gang.wire_bytes, gang.rate, gang.remaining_bytes,
             ToGo(gang.left_ms));
        fputs(out.c_str(), stdout);
        fflush(stdout);
        drawn_ = vms.size() + 1;
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
    GangMeter meter_;
};

} // namespace

void Progress::Ready(const Vms &vms) {
    Note(fmt::format("{} VMs can start; nothing was started", vms.size()));
}

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
