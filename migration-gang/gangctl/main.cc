// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gangctl: the command line; what the commands do is in files of their own.

#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "control_message.h"
#include "estimate.h"
#include "interrupt.h"
#include "migration.h"
#include "plan.h"
#include "progress.h"
#include "view.h"

namespace {

using gangctl::Plan;

// What a plan consists of, from the command line.
struct Arguments {
    std::string plan_file;
    std::vector<std::string> vms;
    Plan given; // values of options
    uint64_t timeout_s = 0;
    bool json = false, dry_run = false;
};

constexpr const char *kMigrateExamples = R"(
Examples:
  gangctl migrate --plan web.json
  gangctl migrate --gang web --compression zstd --level 1 \
    --vm name=vm1,source=/run/a/vm1.qmp,destination=/run/b/vm1.qmp,uri=tcp:192.0.2.2:4441 \
    --vm name=vm2,source=/run/a/vm2.qmp,destination=/run/b/vm2.qmp,uri=tcp:192.0.2.2:4442

A plan:
  {"gang": "web", "compression": "zstd", "level": 1, "channels": 2,
   "max_bandwidth": 0, "downtime_limit": 300, "policy": "independent",
   "gang_max_bandwidth": 0, "bulk_members": 0, "turn_limit": 5000,
   "patience": 0, "stuck": "throttle",
   "source_coordinator": "/run/gang/gangd.sock",
   "destination_coordinator": "/run/gang/gangd.sock",
   "vms": [{"name": "vm1", "source": "/run/a/vm1.qmp",
            "destination": "/run/b/vm1.qmp", "uri": "tcp:192.0.2.2:4441",
            "priority": 0}]}

Before anything is started, and with --dry-run only that, both ends are checked.
Ctrl-C cancels the gang: VMs that have not arrived go on at the source.
Exit status: 0 all completed, 1 one failed, 2 usage, 130 interrupted.)";

constexpr const char *kCancelExamples = R"(
Examples:
  gangctl cancel --plan web.json
  gangctl cancel --vm name=vm1,source=/run/a/vm1.qmp)";

constexpr const char *kSetExamples = R"(
Examples:
  gangctl set --gang web --max-bandwidth 100M
  gangctl set --gang web --max-bandwidth 0 --bulk-members 2 --turn-limit 3000

Holds for the gang that leaves this host, from now on; or, if it has not begun,
for the next one of that id, within a minute.  Sizes as 100M are powers of 1024.)";

constexpr const char *kEstimateExamples = R"(
Examples:
  gangctl estimate --plan web.json --bandwidth 125M
  gangctl estimate --json --vm name=vm1,source=/run/a/vm1.qmp | jq .expected_bytes

The VMs run on.  Sizes are in bytes or with K, M, G (powers of 1024).)";

constexpr const char *kForgetExamples = R"(
Examples:
  gangctl forget --gang web
  gangctl forget --all)";

constexpr const char *kStatusExamples = R"(
Examples:
  gangctl status
  gangctl status --json | jq '.gangs[].members[]'
  gangctl watch --interval 0.5)";

int Usage(const std::string &text) {
    fprintf(stderr, "gangctl: %s\n", text.c_str());
    return gangctl::kExitUsage;
}

// The plan's file with the options given beside it, checked.
gang::Status Assemble(const CLI::App &command, const Arguments &arguments, gangctl::Need need,
                      Plan *plan) {
    if (!arguments.plan_file.empty()) {
        gang::Status status = gangctl::ReadPlan(arguments.plan_file, plan);
        if (!status.ok()) {
            return status;
        }
    }
    auto given = [&](const char *option) {
        const CLI::Option *o = command.get_option_no_throw(option);
        return o && o->count() > 0;
    };
    auto take = [&](const char *option, auto member) {
        if (given(option)) {
            plan->*member = arguments.given.*member;
        }
    };
    take("--gang", &Plan::gang);
    take("--source-coordinator", &Plan::source_coordinator);
    take("--destination-coordinator", &Plan::destination_coordinator);
    take("--compression", &Plan::compression);
    take("--policy", &Plan::policy);
    take("--level", &Plan::level);
    take("--channels", &Plan::channels);
    take("--max-bandwidth", &Plan::max_bandwidth);
    take("--downtime-limit", &Plan::downtime_limit);
    take("--overcommit", &Plan::overcommit);
    take("--gang-max-bandwidth", &Plan::gang_max_bandwidth);
    take("--bulk-members", &Plan::bulk_members);
    take("--turn-limit", &Plan::turn_limit);
    take("--patience", &Plan::patience);
    take("--stuck", &Plan::stuck);
    for (const std::string &text : arguments.vms) {
        gangctl::VmPlan vm;
        if (gang::Status status = gangctl::ParseVm(text, &vm); !status.ok()) {
            return status;
        }
        plan->vms.push_back(std::move(vm));
    }
    return gangctl::CheckPlan(*plan, need);
}

void AddCoding(CLI::App *command, Plan *plan) {
    command->add_option("--compression", plan->compression, "zstd or none")->capture_default_str();
    command->add_option("--level", plan->level, "Level of zstd, 1 to 20")->capture_default_str();
    command->add_option("--channels", plan->channels, "Channels of each VM")->capture_default_str();
}

// What holds for the whole gang.
void AddOrder(CLI::App *command, const std::string &bandwidth_option,
              std::optional<uint64_t> *bandwidth, std::optional<uint64_t> *bulk_members,
              std::optional<uint64_t> *turn_ms) {
    command
        ->add_option(bandwidth_option, *bandwidth,
                     "Bytes a second for all VMs of the gang together (0: no limit)")
        ->transform(CLI::AsSizeValue(false));
    command->add_option("--bulk-members", *bulk_members,
                        "Most VMs in their first round at a time (0: all)");
    command->add_option("--turn-limit", *turn_ms,
                        "Milliseconds that a VM about to converge may have the link (0: none)");
}

void AddPlanOptions(CLI::App *command, Arguments *arguments, bool migrate) {
    auto *file = command->add_option("--plan", arguments->plan_file,
                                     "JSON file with the gang ('-': standard input)");
    command
        ->add_option("--vm", arguments->vms,
                     migrate ? "name=NAME,source=QMP,destination=QMP,uri=URI[,listen=URI]"
                               "[,priority=NUMBER], "
                               "once for each VM"
                             : "name=NAME,source=QMP, once for each VM")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->excludes(file);
    command->add_flag("--json", arguments->json, "Print JSON lines, the result last");
    if (!migrate) {
        return;
    }
    Plan &plan = arguments->given;
    command->add_option("--gang", plan.gang, "Gang id: 1 to 64 of A-Z a-z 0-9 . _ : -");
    command
        ->add_option("--source-coordinator", plan.source_coordinator,
                     "gangd's socket on the source host")
        ->capture_default_str();
    command
        ->add_option("--destination-coordinator", plan.destination_coordinator,
                     "gangd's socket on the destination host")
        ->capture_default_str();
    AddCoding(command, &plan);
    command
        ->add_option("--policy", plan.policy,
                     "When the VMs stop, and leave: independent, together or all-or-nothing")
        ->capture_default_str();
    command
        ->add_option("--max-bandwidth", plan.max_bandwidth,
                     "Bytes a second for each VM (0: no limit)")
        ->transform(CLI::AsSizeValue(false))
        ->capture_default_str();
    AddOrder(command, "--gang-max-bandwidth", &plan.gang_max_bandwidth, &plan.bulk_members,
             &plan.turn_limit);
    command
        ->add_option("--patience", plan.patience,
                     "Rounds after the first until a VM's CPUs are throttled (0: never)")
        ->capture_default_str();
    command
        ->add_option("--stuck", plan.stuck,
                     "What becomes of a VM after twice as many: throttle, last or fail")
        ->capture_default_str();
    command->add_option("--downtime-limit", plan.downtime_limit, "Milliseconds")
        ->capture_default_str();
    command
        ->add_option("--timeout", arguments->timeout_s,
                     "Cancel what has not completed after so many seconds (0: never)")
        ->check(CLI::Range(uint64_t{0}, uint64_t{1000000}))
        ->capture_default_str();
    command->add_flag("--dry-run", arguments->dry_run, "Check both ends, and start nothing");
    command->add_flag("--overcommit", plan.overcommit,
                      "Start even if the destination seems to be short of memory");
}

} // namespace

int main(int argc, char **argv) {
    Arguments migrate_arguments, cancel_arguments, estimate_arguments;
    gangctl::EstimateOptions estimate_options;
    std::string socket = gang::kDefaultControlSocket;
    bool json = false;
    double interval = 1;
    uint64_t count = 0;

    CLI::App app{"gangctl: live migration of VMs that move together.\n"
                 "Drives their QEMUs over QMP, and shows what their coordinator (gangd) knows."};
    app.set_version_flag("--version", "gangctl " GANG_VERSION);
    app.require_subcommand(1);
    app.footer("\nHelp with examples: gangctl COMMAND --help");

    CLI::App *migrate = app.add_subcommand("migrate", "Migrate a gang");
    AddPlanOptions(migrate, &migrate_arguments, true);
    migrate->footer(kMigrateExamples);

    CLI::App *cancel = app.add_subcommand("cancel", "Cancel migrations under way");
    AddPlanOptions(cancel, &cancel_arguments, false);
    cancel->footer(kCancelExamples);

    CLI::App *estimate =
        app.add_subcommand("estimate", "Tell what a migration would cost, without one");
    AddPlanOptions(estimate, &estimate_arguments, false);
    AddCoding(estimate, &estimate_arguments.given);
    estimate
        ->add_option("--bandwidth", estimate_options.bandwidth,
                     "Bytes a second of the link, for all VMs together")
        ->transform(CLI::AsSizeValue(false));
    estimate->add_option("--sample-pages", estimate_options.sample_pages,
                         "Pages of each VM to code (default: 131072, or all if fewer)");
    estimate->add_option("--timeout", estimate_options.timeout_s, "Give up after so many seconds")
        ->check(CLI::Range(uint64_t{1}, uint64_t{1000000}))
        ->capture_default_str();
    estimate->footer(kEstimateExamples);

    CLI::App *set = app.add_subcommand("set", "Change what holds for a gang under way");
    std::string set_gang;
    gang::GangOrder order;
    set->add_option("--gang", set_gang, "Gang id")->required();
    set->add_option("--socket", socket, "gangd's socket on the source host")
        ->capture_default_str();
    AddOrder(set, "--max-bandwidth", &order.max_bandwidth, &order.bulk_members, &order.turn_ms);
    set->footer(kSetExamples);

    CLI::App *status = app.add_subcommand("status", "Show gangs that the coordinator knows");
    CLI::App *watch = app.add_subcommand("watch", "Show them again and again");
    for (CLI::App *command : {status, watch}) {
        command->add_option("--socket", socket, "gangd's socket")->capture_default_str();
        command->add_flag("--json", json, "Print gangd's answer, one object a line");
        command->footer(kStatusExamples);
    }
    watch->add_option("--interval", interval, "Seconds")
        ->check(CLI::Range(0.1, 3600.0))
        ->capture_default_str();
    watch->add_option("--count", count, "How often (0: until interrupted)")->capture_default_str();

    std::string forgotten;
    bool all = false;
    CLI::App *forget = app.add_subcommand(
        "forget", "Drop what the destination keeps of gangs that failed, for another attempt");
    forget->add_option("--socket", socket, "gangd's socket")->capture_default_str();
    CLI::Option_group *which = forget->add_option_group("gangs");
    which->add_option("--gang", forgotten, "Of this gang")->check([](const std::string &id) {
        return gang::ValidName(id) ? std::string() : std::string("no gang id");
    });
    which->add_flag("--all", all, "Of all gangs");
    which->require_option(1);
    forget->footer(kForgetExamples);

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? 0 : gangctl::kExitUsage;
    }
    gangctl::CatchInterrupts();
    if (status->parsed()) {
        return gangctl::ShowStatus(socket, json);
    }
    if (set->parsed()) {
        if (!order.max_bandwidth && !order.bulk_members && !order.turn_ms) {
            return Usage("set: say what (--max-bandwidth, --bulk-members, --turn-limit)");
        }
        return gangctl::SetOrder(socket, set_gang, order);
    }
    if (forget->parsed()) {
        return gangctl::ForgetKept(socket, forgotten);
    }
    if (watch->parsed()) {
        return gangctl::WatchStatus(socket, interval, count, json);
    }
    bool migrates = migrate->parsed(), estimates = estimate->parsed();
    const Arguments &arguments = migrates    ? migrate_arguments
                                 : estimates ? estimate_arguments
                                             : cancel_arguments;
    Plan plan;
    gang::Status assembled =
        Assemble(migrates    ? *migrate
                 : estimates ? *estimate
                             : *cancel,
                 arguments, migrates ? gangctl::Need::kMigration : gangctl::Need::kSources, &plan);
    if (!assembled.ok()) {
        return Usage(assembled.message());
    }
    if (estimates) {
        estimate_options.json = arguments.json;
        return gangctl::Estimate(plan, estimate_options);
    }
    auto progress = gangctl::Progress::Create(arguments.json);
    if (!migrates) {
        return gangctl::Cancel(plan, progress.get());
    }
    return arguments.dry_run ? gangctl::CheckOnly(plan, progress.get())
                             : gangctl::Migrate(plan, arguments.timeout_s, progress.get());
}
