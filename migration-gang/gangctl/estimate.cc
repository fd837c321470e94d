// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Scans live VMs and adds up what they say: see estimate.h.

#include "estimate.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include <fmt/format.h>

#include "control_message.h"
#include "directory.h"
#include "interrupt.h"
#include "qmp_client.h"
#include "text.h"

namespace gangctl {

using gang::GetString;
using gang::GetUint;
using gang::kPageSize;
using gang::Status;
using nlohmann::json;

namespace {

constexpr int kPollMs = 100;
constexpr const char *kFdName = "gang-estimate-directory";
// RAMBlocks beside the VM's memory: firmware, video memory.
constexpr uint64_t kOtherBytes = 64 << 20;
// Of the main channel, for each VM: devices' state, SYNC packets, section headers.
constexpr uint64_t kStateBytes = 256 << 10;
// How long writes of running guests are counted.
constexpr int kDirtyMs = 1000;
constexpr int kDirtySample = 16384; // pages of each GiB
constexpr double kMiB = 1 << 20;
// A gang of which each round leaves more than this part of the one before to be sent
// again needs more bandwidth, or guests that write less.
constexpr double kConverges = 0.9;

struct Scanned {
    VmPlan plan;
    std::unique_ptr<QmpClient> qmp;
    uint32_t member = 0;
    std::string status = "none";
    bool counts_writes = false;
    double dirty_rate = 0;                      // bytes a second of pages written
    uint64_t ram_bytes = 0;                     // without firmware and the like
    uint64_t zero = 0, other = 0, distinct = 0; // pages
    uint64_t sent = 0, referenced = 0, published = 0, payload = 0, metadata = 0;
};

Status Named(const Scanned &vm, const Status &status) {
    return status.ok() ? status : Status(status.code(), vm.plan.name + ": " + status.message());
}

bool IsTrue(const json &answer, const char *key) {
    auto it = answer.find(key); // end() of what is no object, too
    return it != answer.end() && *it == true;
}

class Estimation {
  public:
    Estimation(const Plan &plan, const EstimateOptions &options) : plan_(plan), options_(options) {
        for (const VmPlan &vm : plan.vms) {
            vms_.emplace_back().plan = vm;
        }
    }
    ~Estimation() {
        for (Scanned &vm : vms_) {
            json ignored;
            if (vm.qmp && vm.status != "none") {
                (void)vm.qmp->Execute("gang-estimate-stop", {}, &ignored);
            }
        }
        if (fd_ >= 0) {
            close(fd_);
        }
    }

    Status Run() {
        deadline_ = NowMs() + static_cast<int64_t>(options_.timeout_s) * 1000;
        int64_t begun = NowMs();
        Status status = Connect();
        status = status.ok() ? MakeDirectory() : status;
        for (size_t i = 0; i < vms_.size() && status.ok(); i++) {
            status = Named(vms_[i], CountWrites(&vms_[i]));
        }
        for (size_t i = 0; i < vms_.size() && status.ok(); i++) {
            status = Named(vms_[i], Scan(&vms_[i]));
        }
        status = status.ok() ? Wait("scanning", "scanned") : status;
        scan_ms_ = NowMs() - begun;
        // All have been counted: what occurs more than once is known.
        for (size_t i = 0; i < vms_.size() && status.ok(); i++) {
            status = Named(vms_[i], Code(&vms_[i]));
        }
        begun = NowMs();
        status = status.ok() ? Wait("coding", "done") : status;
        code_ms_ = NowMs() - begun;
        return status.ok() ? DirtyRates() : status;
    }
    json Report() const;

  private:
    Status Connect() {
        for (Scanned &vm : vms_) {
            json memory;
            Status status = QmpClient::Connect(vm.plan.source, 5000, &vm.qmp);
            if (status.ok()) {
                status = vm.qmp->Execute("query-memory-size-summary", {}, &memory);
            }
            if (!status.ok()) {
                return Named(vm, status);
            }
            uint64_t base = 0, plugged = 0;
            GetUint(memory, "base-memory", INT64_MAX / 2, &base);
            GetUint(memory, "plugged-memory", INT64_MAX / 2, &plugged);
            vm.ram_bytes = base + plugged;
        }
        return Status::Ok();
    }

    // Begins to count, in QEMU, what a running guest writes: by its log of writes, of
    // which KVM has one of two kinds; without KVM, and where none can be had, by comparing a
    // sample of pages.
    static Status CountWrites(Scanned *vm) {
        json status_info, kvm;
        Status status = vm->qmp->Execute("query-status", {}, &status_info);
        status = status.ok() ? vm->qmp->Execute("query-kvm", {}, &kvm) : status;
        if (!status.ok() || !IsTrue(status_info, "running")) {
            return status;
        }
        for (const char *mode : {"dirty-bitmap", "dirty-ring", "page-sampling"}) {
            json arguments = {
                {"calc-time", kDirtyMs}, {"calc-time-unit", "millisecond"}, {"mode", mode}};
            const bool samples = mode == std::string_view("page-sampling");
            if (samples) {
                arguments["sample-pages"] = kDirtySample;
            }
            json ignored;
            if ((samples || IsTrue(kvm, "enabled")) &&
                vm->qmp->Execute("calc-dirty-rate", arguments, &ignored).ok()) {
                vm->counts_writes = true;
                break;
            }
        }
        return Status::Ok();
    }

    // What CountWrites() has found.  QEMU tells whole MiB a second, rounded down.
    Status DirtyRates() {
        for (Scanned &vm : vms_) {
            std::string state = "measuring";
            while (vm.counts_writes && state == "measuring") {
                json info;
                Status status = Named(vm, vm.qmp->Execute("query-dirty-rate", {}, &info));
                if (!status.ok() || interrupts || NowMs() >= deadline_) {
                    return status.ok() ? Given() : status;
                }
                uint64_t rate = 0;
                GetString(info, "status", &state);
                if (GetUint(info, "dirty-rate", 1 << 30, &rate) && rate) {
                    vm.dirty_rate = (static_cast<double>(rate) + 0.5) * kMiB;
                }
                if (state == "measuring") {
                    poll(nullptr, 0, kPollMs);
                }
            }
        }
        return Status::Ok();
    }

    Status Given() const {
        return interrupts ? Status(gang::Code::kInvalid, "interrupted")
                          : Status(gang::Code::kUnavailable,
                                   fmt::format("not done in {} s", options_.timeout_s));
    }

    Status MakeDirectory() {
        gang::DirectoryConfig config;
        struct sysinfo host;
        for (const Scanned &vm : vms_) {
            config.gang_pages += (vm.ram_bytes + kOtherBytes) / kPageSize;
        }
        config.store_slots = config.gang_pages;
        config.mirror_pages = sysinfo(&host) == 0 // gangd's default
                                  ? uint64_t{host.totalram} * host.mem_unit / 16 / kPageSize
                                  : config.gang_pages / 16;
        if (getrandom(config.seed.data(), config.seed.size(), 0) !=
            static_cast<ssize_t>(config.seed.size())) {
            return Status::System("random numbers", errno);
        }
        Status status = gang::Directory::Create(config, &fd_);
        return status.ok() ? gang::Directory::Open(fd_, &directory_) : status;
    }

    Status Scan(Scanned *vm) {
        json ignored;
        Status status = directory_->AddMember(static_cast<uint32_t>(getpid()), &vm->member);
        if (status.ok()) {
            status = vm->qmp->PassFd(kFdName, fd_);
        }
        if (status.ok()) {
            status = vm->qmp->Execute("gang-estimate-scan",
                                      {{"fdname", kFdName},
                                       {"member", vm->member},
                                       {"channels", plan_.channels},
                                       {"compression", plan_.compression},
                                       {"level", plan_.level}},
                                      &ignored);
            vm->status = status.ok() ? "scanning" : "none";
            if (!status.ok()) { // it may not have taken the descriptor
                (void)vm->qmp->Execute("closefd", {{"fdname", kFdName}}, &ignored);
            }
        }
        return status;
    }

    Status Code(Scanned *vm) {
        json ignored, arguments = {{"members", vms_.size()}};
        if (options_.sample_pages) {
            arguments["pages"] = options_.sample_pages;
        }
        vm->status = "coding";
        return vm->qmp->Execute("gang-estimate-code", arguments, &ignored);
    }

    // Until all say `done` instead of `doing`.
    Status Wait(const char *doing, const char *done) {
        for (;;) {
            bool all = true;
            for (Scanned &vm : vms_) {
                json info;
                Status status = Named(vm, vm.qmp->Execute("query-gang-estimate", {}, &info));
                if (!status.ok()) {
                    return status;
                }
                Take(info, &vm);
                all &= vm.status == done;
                if (vm.status != done && vm.status != doing) {
                    std::string why = "its estimate was ended: another client's?";
                    GetString(info, "error-desc", &why);
                    return {gang::Code::kInvalid, vm.plan.name + ": " + why};
                }
            }
            if (all) {
                return Status::Ok();
            }
            if (interrupts || NowMs() >= deadline_) {
                return Given();
            }
            poll(nullptr, 0, kPollMs);
        }
    }

    static void Take(const json &info, Scanned *vm) {
        GetString(info, "status", &vm->status);
        GetUint(info, "zero-pages", INT64_MAX, &vm->zero);
        GetUint(info, "scanned-pages", INT64_MAX, &vm->other);
        GetUint(info, "distinct-pages", INT64_MAX, &vm->distinct);
        GetUint(info, "sent-pages", INT64_MAX, &vm->sent);
        GetUint(info, "referenced-pages", INT64_MAX, &vm->referenced);
        GetUint(info, "published-pages", INT64_MAX, &vm->published);
        GetUint(info, "payload-bytes", INT64_MAX, &vm->payload);
        GetUint(info, "metadata-bytes", INT64_MAX, &vm->metadata);
    }

    const Plan &plan_;
    const EstimateOptions &options_;
    std::vector<Scanned> vms_;
    int fd_ = -1;
    std::unique_ptr<gang::Directory> directory_;
    int64_t deadline_ = 0, scan_ms_ = 0, code_ms_ = 0;
};

json Estimation::Report() const {
    uint64_t ram = 0, zero = 0, other = 0, duplicates = 0, within = 0, distinct_sum = 0;
    uint64_t sent = 0, fresh = 0, published = 0, payload = 0, metadata = 0;
    double dirty_rate = 0;
    json list = json::array();
    for (const Scanned &vm : vms_) {
        uint64_t distinct = std::min(vm.distinct, vm.other);
        ram += vm.ram_bytes;
        zero += vm.zero;
        other += vm.other;
        duplicates += directory_->stat(vm.member, gang::Stat::kScanDuplicates);
        within += vm.other - distinct;
        distinct_sum += distinct;
        sent += vm.sent;
        fresh += vm.sent - std::min(vm.sent, vm.referenced);
        published += vm.published;
        payload += vm.payload;
        metadata += vm.metadata;
        dirty_rate += vm.dirty_rate;
        list.push_back({{"name", vm.plan.name},
                        {"ram_bytes", vm.ram_bytes},
                        {"zero_bytes", vm.zero * kPageSize},
                        {"nonzero_bytes", vm.other * kPageSize},
                        {"duplicate_within_bytes", (vm.other - distinct) * kPageSize},
                        {"distinct_bytes", distinct * kPageSize},
                        {"dirty_rate", vm.dirty_rate}});
    }
    const uint64_t distinct = other - std::min(other, duplicates);
    const uint64_t across = distinct_sum - std::min(distinct_sum, distinct);
    // Where only a part was coded: a content of the sample is the first of its kind
    // more often than one of the whole, so contents are scaled, not pages.
    const bool whole = sent + sent / 50 >= other;
    const double contents =
        whole || !fresh ? 1
                        : std::max(1.0, static_cast<double>(distinct) / static_cast<double>(fresh));
    const double pages =
        whole || !sent ? 1 : static_cast<double>(other) / static_cast<double>(sent);
    auto scaled = [](uint64_t n, double by) {
        return static_cast<uint64_t>(static_cast<double>(n) * by);
    };
    const uint64_t first =
        scaled(payload, contents) + scaled(metadata, pages) + vms_.size() * kStateBytes;
    const uint64_t code_ms = scaled(static_cast<uint64_t>(code_ms_), pages);
    // The link, or the packets' making, sets the pace.
    auto pace_ms = [&](double bytes) {
        return options_.bandwidth ? bytes * 1000 / static_cast<double>(options_.bandwidth) : 0;
    };
    const double round_ms = std::max(pace_ms(static_cast<double>(first)),
                                     static_cast<double>(code_ms));
    // What is written while the first round passes has been sent by then with a chance of
    // one half.  It is sent again, as one of the pages that no other has; and what is
    // written meanwhile, again.
    const double coded = fresh ? static_cast<double>(payload) / static_cast<double>(fresh) : 0;
    const double again = dirty_rate / kPageSize * coded; // bytes a second
    const double ratio = options_.bandwidth ? again / static_cast<double>(options_.bandwidth) : 0;
    const double more = again * round_ms / 2000 / (1 - std::min(ratio, kConverges));
    const uint64_t bytes = first + static_cast<uint64_t>(more);
    const uint64_t store =
        std::min(scaled(published, contents), distinct) * (kPageSize + sizeof(gang::SlotMeta));
    json report = {
        {"vms", list},
        {"ram_bytes", ram},
        {"zero_bytes", zero * kPageSize},
        {"nonzero_bytes", other * kPageSize},
        {"duplicate_within_bytes", within * kPageSize},
        {"duplicate_across_bytes", across * kPageSize},
        {"distinct_bytes", distinct * kPageSize},
        {"sampled",
         other ? std::min(1.0, static_cast<double>(sent) / static_cast<double>(other)) : 1.0},
        {"dirty_rate", dirty_rate},
        {"first_round_bytes", first},
        {"expected_bytes", bytes},
        {"store_bytes", store},
        {"destination_bytes", ram + store},
        {"scan_ms", scan_ms_},
        {"code_ms", code_ms}};
    if (options_.bandwidth) { // a member scans before it sends
        report["bandwidth"] = options_.bandwidth;
        report["converges"] = ratio < kConverges;
        report["estimated_ms"] = static_cast<uint64_t>(static_cast<double>(scan_ms_) + round_ms +
                                                       pace_ms(more));
    }
    return report;
}

std::string Size(const json &report, const char *key) {
    return Bytes(report[key].get<double>());
}

void Print(const json &report) {
    fmt::print("{:<16} {:>11} {:>11} {:>11} {:>15} {:>11}\n", "VM", "RAM", "zero", "other",
               "twice within", "distinct");
    for (const json &vm : report["vms"]) {
        fmt::print("{:<16} {:>11} {:>11} {:>11} {:>15} {:>11}\n", vm["name"].get<std::string>(),
                   Size(vm, "ram_bytes"), Size(vm, "zero_bytes"), Size(vm, "nonzero_bytes"),
                   Size(vm, "duplicate_within_bytes"), Size(vm, "distinct_bytes"));
    }
    fmt::print("\nsame content   {} within VMs, {} across VMs; {} remain of {}\n",
               Size(report, "duplicate_within_bytes"), Size(report, "duplicate_across_bytes"),
               Size(report, "distinct_bytes"), Size(report, "nonzero_bytes"));
    fmt::print("on the wire    {}", Size(report, "expected_bytes"));
    if (report["sampled"].get<double>() < 0.98) {
        fmt::print(" (from {:.0f} % of the pages)", 100 * report["sampled"].get<double>());
    }
    if (report.contains("estimated_ms")) {
        fmt::print(", {:.1f} s at {}/s", report["estimated_ms"].get<double>() / 1000,
                   Size(report, "bandwidth"));
    }
    if (report["dirty_rate"].get<double>() > 0) {
        fmt::print("\nwritten        {}/s", Size(report, "dirty_rate"));
        if (!report.value("converges", true)) {
            fmt::print("; at this bandwidth it will not converge by itself: give it more, see "
                       "--patience, or move fewer VMs at once");
        }
    }
    fmt::print("\nmemory there   {}: guests {}, store {}\n", Size(report, "destination_bytes"),
               Size(report, "ram_bytes"), Size(report, "store_bytes"));
}

} // namespace

int Estimate(const Plan &plan, const EstimateOptions &options) {
    Estimation estimation(plan, options);
    if (Status status = estimation.Run(); !status.ok()) {
        if (options.json) {
            fputs(JsonLine({{"error", status.message()}}).c_str(), stdout);
        } else {
            fmt::print(stderr, "gangctl: {}\n", Plain(status.message()));
        }
        return interrupts ? kExitInterrupted : kExitFailed;
    }
    json report = estimation.Report();
    if (options.json) {
        fputs(JsonLine(report).c_str(), stdout);
    } else {
        Print(report);
    }
    return fflush(stdout) == 0 ? 0 : kExitFailed;
}

} // namespace gangctl
