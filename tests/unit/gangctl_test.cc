// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gangctl against QEMUs that do what a test wants, and a real gangd.

#include "fake_qemu.h"

namespace gang::test {
namespace {

// Two VMs, their monitors at both ends, and one coordinator for both hosts.
class GangctlTest : public testing::Test {
  protected:
    GangctlTest() {
        for (int i = 0; i < 2; i++) {
            std::string n = std::to_string(i);
            sources.push_back(std::make_unique<FakeQemu>(dir / ("s" + n), false));
            destinations.push_back(std::make_unique<FakeQemu>(dir / ("d" + n), true));
            sources[i]->name = "guest" + n;
            sources[i]->arrives_at = destinations[i].get();
            plan["vms"].push_back({{"name", "vm" + n},
                                   {"source", sources[i]->path()},
                                   {"destination", destinations[i]->path()},
                                   {"uri", "tcp:127.0.0.1:700" + n}});
        }
        plan["gang"] = "web";
        plan["source_coordinator"] = gangd.socket;
        plan["destination_coordinator"] = gangd.socket;
    }
    void Start() {
        for (auto *side : {&sources, &destinations}) {
            for (auto &qemu : *side) {
                qemu->Start();
            }
        }
    }
    std::unique_ptr<Process> Run(std::vector<std::string> words) {
        words.insert(words.begin(), GANGCTL_PATH);
        return std::make_unique<Process>(words, dir / "out", dir / "err");
    }
    std::unique_ptr<Process> Migrate(std::vector<std::string> flags = {}) {
        std::ofstream(dir / "plan.json") << plan;
        std::vector<std::string> words = {"migrate", "--json", "--plan", dir / "plan.json"};
        words.insert(words.end(), flags.begin(), flags.end());
        return Run(words);
    }
    std::string Out() { return ReadAll(dir / "out"); }
    std::string Err() { return ReadAll(dir / "err"); }
    json Result() {
        std::string text = Out();
        size_t end = text.find_last_not_of('\n');
        size_t start = text.rfind('\n', end);
        return json::parse(text.substr(start == std::string::npos ? 0 : start + 1), nullptr, false);
    }
    // Nothing that changes a VM has been asked for.
    void ExpectUntouched() {
        for (auto *side : {&sources, &destinations}) {
            for (auto &qemu : *side) {
                for (const char *command :
                     {"migrate-set-parameters", "gang-migrate", "gang-migrate-incoming"}) {
                    EXPECT_TRUE(qemu->Asked(command).is_null()) << qemu->path() << command;
                }
            }
        }
    }

    TempDir dir;
    Gangd gangd;
    std::vector<std::unique_ptr<FakeQemu>> sources, destinations;
    json plan = {{"vms", json::array()}};
};

TEST_F(GangctlTest, MigratesAllAndReportsEach) {
    plan["channels"] = 4;
    plan["compression"] = "none";
    plan["vms"][1]["listen"] = "tcp:0:7001";
    Start();
    EXPECT_EQ(Migrate({"--downtime-limit", "77"})->Wait(), 0) << Err() << Out();
    json result = Result();
    EXPECT_EQ(result["result"], "completed");
    ASSERT_EQ(result["vms"].size(), 2u);
    json expected = {{"name", "vm0"},      {"status", "completed"}, {"total_ms", 1234},
                     {"downtime_ms", 56},  {"wire_bytes", 789},     {"saved_bytes", 5},
                     {"zero_pages", 1},    {"literal_pages", 2},    {"published_pages", 3},
                     {"referenced_pages", 4},
                     {"error", ""},        {"at", "destination"},   {"run_state", "running"}};
    EXPECT_EQ(result["vms"][0], expected);

    json set = sources[0]->Asked("migrate-set-parameters");
    EXPECT_EQ(set["multifd-channels"], 4);
    EXPECT_EQ(set["gang-compression"], "none");
    EXPECT_EQ(set["downtime-limit"], 77);               // the option beside the plan
    EXPECT_GT(set["max-bandwidth"], uint64_t{1} << 35); // 0 is no limit, not QEMU's default
    EXPECT_EQ(destinations[0]->Asked("migrate-set-parameters")["multifd-channels"], 4);
    EXPECT_EQ(destinations[0]->Asked("gang-migrate-incoming")["uri"], "tcp:127.0.0.1:7000");
    EXPECT_EQ(destinations[1]->Asked("gang-migrate-incoming")["uri"], "tcp:0:7001");
    json migrate = sources[1]->Asked("gang-migrate");
    EXPECT_EQ(migrate, (json{{"uri", "tcp:127.0.0.1:7001"},
                             {"gang-id", "web"},
                             {"gang-socket", gangd.socket},
                             {"gang-members", 2}}));
    EXPECT_NE(Out().find("\"phase\":\"scanning\""), std::string::npos);
}

TEST_F(GangctlTest, TakesArgumentsInPlaceOfAPlan) {
    Start();
    std::vector<std::string> words = {"migrate",    "--gang",
                                      "web",        "--source-coordinator",
                                      gangd.socket, "--destination-coordinator",
                                      gangd.socket};
    for (const json &vm : plan["vms"]) {
        words.push_back("--vm");
        std::string text;
        for (const auto &[key, value] : vm.items()) {
            text += (text.empty() ? "" : ",") + key + "=" + value.get<std::string>();
        }
        words.push_back(text);
    }
    EXPECT_EQ(Run(words)->Wait(), 0) << Err();
    EXPECT_NE(Out().find("gang completed"), std::string::npos);
    EXPECT_EQ(Out().find('\x1b'), std::string::npos); // no terminal, no escapes
}

TEST_F(GangctlTest, WhatHoldsForTheGangReachesCoordinatorAndVms) {
    plan["gang_max_bandwidth"] = 5000;
    plan["bulk_members"] = 1;
    plan["patience"] = 7;
    plan["stuck"] = "last";
    plan["vms"][1]["priority"] = 3;
    Start();
    EXPECT_EQ(Migrate({"--turn-limit", "600", "--gang-max-bandwidth", "4K"})->Wait(), 0)
        << Err() << Out();
    json first = sources[0]->Asked("migrate-set-parameters"),
         second = sources[1]->Asked("migrate-set-parameters");
    EXPECT_EQ(first["gang-patience"], 7);
    EXPECT_EQ(first["gang-stuck"], "last");
    EXPECT_FALSE(first.contains("gang-priority"));
    EXPECT_EQ(second["gang-priority"], 3);
    // The fake QEMUs do not join; whoever does finds it.
    auto client = gangd.Client();
    json join = SourceJoinRequest("web", "guest0", 1);
    join["board"] = true;
    ASSERT_TRUE(client->Send(join));
    ASSERT_EQ(client->Receive()["op"], "board");
    ASSERT_EQ(client->Receive()["op"], "directory");
    json gang = gangd.Status()["gangs"][0];
    EXPECT_EQ(gang["max-bandwidth"], 4096);
    EXPECT_EQ(gang["bulk-members"], 1);
    EXPECT_EQ(gang["turn-limit"], 600);
    EXPECT_EQ(gang["missing"], json({"guest1"}));
    EXPECT_EQ(Run({"status", "--socket", gangd.socket})->Wait(), 0);
    EXPECT_NE(Out().find("missing: guest1"), std::string::npos) << Out();
    // And while it moves:
    EXPECT_EQ(Run({"set", "--gang", "web", "--max-bandwidth", "1M", "--socket", gangd.socket})
                  ->Wait(),
              0)
        << Err();
    EXPECT_EQ(gangd.Status()["gangs"][0]["max-bandwidth"], 1 << 20);
    EXPECT_EQ(Run({"set", "--gang", "web", "--socket", gangd.socket})->Wait(), 2);
    EXPECT_EQ(Run({"set", "--gang", "web", "--bulk-members", "500", "--socket", gangd.socket})
                  ->Wait(),
              1);
}

TEST_F(GangctlTest, LimitThatTheCoordinatorCannotBeToldStartsNothing) {
    plan["source_coordinator"] = (dir / "elsewhere").c_str();
    plan["gang_max_bandwidth"] = 5000;
    Start();
    EXPECT_EQ(Migrate()->Wait(), 1);
    EXPECT_TRUE(sources[0]->Asked("gang-migrate").is_null());
}

TEST_F(GangctlTest, WrongPlanIsAUsageErrorThatNamesWhatIsWrong) {
    auto refused = [&](const json &wrong, const std::string &names) {
        std::filesystem::remove(dir / "err");
        std::ofstream(dir / "plan.json") << wrong;
        EXPECT_EQ(Run({"migrate", "--plan", dir / "plan.json"})->Wait(), 2) << wrong;
        EXPECT_NE(Err().find(names), std::string::npos) << Err();
    };
    auto with = [&](const char *path, json value) {
        json changed = plan;
        changed[json::json_pointer(path)] = std::move(value);
        return changed;
    };
    refused(with("/colour", "red"), "colour");
    refused(with("/vms/1/urll", "tcp:a:1"), "urll");
    refused(with("/vms/1/uri", 7), "uri");
    refused(with("/vms/1/uri", plan["vms"][0]["uri"]), "used twice");
    refused(with("/vms/1/source", plan["vms"][0]["destination"]), "used twice");
    refused(with("/vms/1/name", "vm0"), "vm0");
    refused(with("/vms/1/name", "a/b"), "a/b");
    refused(with("/vms/0/destination", ""), "vm0");
    refused(with("/vms", json::array()), "no VM");
    refused(with("/vms", json::array({1})), "vms[0]");
    refused(with("/gang", "a gang"), "a gang");
    refused(with("/level", 0), "level");
    refused(with("/level", -1), "level");
    refused(with("/channels", 65), "channels");
    refused(with("/compression", "lzma"), "lzma");
    refused(json::array(), "object");
    EXPECT_EQ(Run({"migrate", "--plan", dir / "absent"})->Wait(), 2);
    EXPECT_EQ(Run({"migrate", "--plan", dir / "plan.json", "--vm", "name=a"})->Wait(), 2);
    EXPECT_EQ(Run({"migrate", "--vm", "nmae=a"})->Wait(), 2);
    EXPECT_EQ(Run({})->Wait(), 2);
    EXPECT_EQ(Run({"migrate", "--help"})->Wait(), 0);
}

// Each is found before anything is started.

class GangctlPreflight : public GangctlTest {
  public:
    void Expect(const std::string &says) {
        Start();
        EXPECT_EQ(Migrate()->Wait(20000), 1);
        EXPECT_NE(Out().find(says), std::string::npos) << Out() << Err();
        EXPECT_EQ(Result()["result"], "failed");
        ExpectUntouched();
    }
};

TEST_F(GangctlPreflight, SourceThatMigratesAlready) {
    sources[1]->migration = "active";
    Expect("vm1 (source): it migrates already");
}
TEST_F(GangctlPreflight, SourceThatHasLeft) {
    sources[1]->run_state = "postmigrate";
    Expect("vm1 (source): it has migrated away");
}
TEST_F(GangctlPreflight, SourceThatIsShutDown) {
    sources[0]->run_state = "shutdown";
    Expect("vm0 (source): it is 'shutdown'");
}
TEST_F(GangctlPreflight, DestinationThatDoesNotWait) {
    destinations[0]->run_state = "running";
    Expect("vm0 (destination): it does not wait");
}
TEST_F(GangctlPreflight, QemuWithoutGangMigration) {
    destinations[1]->has_gang = false;
    Expect("vm1 (destination): its QEMU has no gang-migrate-incoming");
}
TEST_F(GangctlPreflight, TwoGuestsOfOneName) {
    sources[1]->name = sources[0]->name;
    Expect("vm1 (source): its QEMU has the same -name");
}
TEST_F(GangctlPreflight, MonitorThatIsNotThere) {
    plan["vms"][0]["source"] = dir / "nowhere";
    Expect("vm0 (source): QMP socket");
}
TEST_F(GangctlPreflight, MonitorThatAnotherProgramHolds) {
    sources[0]->Start();
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, sources[0]->path().c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    char byte;
    ASSERT_EQ(recv(fd, &byte, 1, 0), 1); // it serves us
    sources[1]->Start();
    destinations[0]->Start();
    destinations[1]->Start();
    EXPECT_EQ(Migrate()->Wait(20000), 1);
    EXPECT_NE(Out().find("one client at a time"), std::string::npos) << Out();
    ExpectUntouched();
    close(fd);
}
TEST_F(GangctlPreflight, CoordinatorThatIsDead) {
    gangd.process->Signal(SIGKILL);
    gangd.process->Wait();
    Expect("no coordinator at");
}

// What would only come out when the VM is stopped, or when others have started.
TEST_F(GangctlPreflight, MachinesThatDiffer) {
    sources[0]->answers["query-memory-size-summary"] = {{"base-memory", 4 << 20},
                                                        {"plugged-memory", 4 << 20}};
    destinations[0]->answers["query-memory-size-summary"] = {{"base-memory", 4 << 20}};
    sources[1]->answers["qom-get"] = "pc-q35-10.0-machine";
    destinations[1]->answers["qom-get"] = "pc-q35-9.0-machine";
    sources[1]->answers["query-cpus-fast"] = json::array({1, 2});
    destinations[1]->answers["query-cpus-fast"] = json::array({1});
    destinations[1]->answers["query-migrate-parameters"] = {{"tls-creds", "tls0"}};
    Expect("vm0 (destination): it has 4.0 MiB of RAM, its source 8.0 MiB");
    EXPECT_NE(Out().find("vm1 (destination): its machine is pc-q35-9.0"), std::string::npos);
    EXPECT_NE(Out().find("vm1 (destination): it has 1 CPUs, its source 2"), std::string::npos);
    EXPECT_NE(Out().find("TLS is set up at the destination only"), std::string::npos);
}
TEST_F(GangctlPreflight, SourceThatCannotMigrate) {
    sources[0]->answers["query-migrate"] = {{"status", "none"},
                                            {"blocked-reasons", json::array({"a mounted disk"})}};
    sources[1]->answers["query-migrate-capabilities"] = {
        {{"capability", "xbzrle"}, {"state", true}}, {{"capability", "events"}, {"state", true}}};
    Expect("vm0 (source): it cannot migrate: a mounted disk");
    EXPECT_NE(Out().find("vm1 (source): its migration capability xbzrle"), std::string::npos);
    EXPECT_EQ(Out().find("capability events"), std::string::npos);
}
TEST_F(GangctlPreflight, DestinationWithoutTheMemory) {
    sources[0]->answers["query-memory-size-summary"] = {{"base-memory", int64_t{1} << 50}};
    Expect("the destination host has");
}
TEST_F(GangctlPreflight, GangOfThisIdUnderWay) {
    auto member = gangd.Source("web", "other", 2);
    ASSERT_TRUE(Soon([&] { return !gangd.Status()["gangs"].empty(); }));
    Expect("a gang web is under way");
}

TEST_F(GangctlTest, MemoryMayBeOvercommittedOnRequest) {
    sources[0]->answers["query-memory-size-summary"] = {{"base-memory", int64_t{1} << 50}};
    Start();
    EXPECT_EQ(Migrate({"--overcommit"})->Wait(), 0) << Out();
    EXPECT_NE(Out().find("the destination host has"), std::string::npos);
}

// Memory that the destination has taken already does not have to be there once more.
TEST_F(GangctlTest, PreallocatedMemoryIsNotAskedForAgain) {
    sources[0]->answers["query-memory-size-summary"] = {{"base-memory", int64_t{1} << 50}};
    json backend = {{"size", int64_t{1} << 50}, {"prealloc", true}};
    destinations[0]->answers["query-memdev"] = json::array({backend});
    Start();
    EXPECT_EQ(Migrate()->Wait(), 0) << Out();
}

TEST_F(GangctlTest, DryRunChecksAndStartsNothing) {
    Start();
    EXPECT_EQ(Migrate({"--dry-run"})->Wait(), 0) << Err() << Out();
    EXPECT_EQ(Result()["result"], "ready");
    ExpectUntouched();
}

TEST_F(GangctlTest, DryRunSaysWhatIsWrong) {
    destinations[1]->run_state = "running";
    Start();
    EXPECT_EQ(Migrate({"--dry-run"})->Wait(), 1);
    EXPECT_NE(Out().find("vm1 (destination): it does not wait"), std::string::npos);
    ExpectUntouched();
}

TEST_F(GangctlTest, EventsHaveTheFiguresOfEachVmAndOfTheGang) {
    Start();
    EXPECT_EQ(Migrate()->Wait(), 0) << Out();
    std::istringstream lines(Out());
    json vm, whole;
    for (std::string line; std::getline(lines, line);) {
        json event = json::parse(line, nullptr, false);
        (event["event"] == "progress" ? vm : event["event"] == "gang" ? whole : event) = event;
    }
    for (const char *key : {"phase", "percent", "wire_bytes", "saved_bytes", "remaining_bytes",
                            "bytes_per_second", "dirty_bytes_per_second", "estimated_ms"}) {
        EXPECT_TRUE(vm.contains(key)) << key << vm;
        EXPECT_TRUE(whole.contains(key)) << key << whole;
    }
    for (const char *key : {"vm", "status", "round", "zero_pages", "literal_pages",
                            "published_pages", "referenced_pages", "patched_pages", "delta_pages"}) {
        EXPECT_TRUE(vm.contains(key)) << key << vm;
    }
    EXPECT_EQ(whole["percent"], 100);
    EXPECT_EQ(whole["completed"], 2);
}

TEST_F(GangctlTest, EstimateOfAQemuThatHasNoneIsAnError) {
    for (auto &source : sources) {
        source->refuses = "getfd";
    }
    Start();
    std::ofstream(dir / "plan.json") << plan;
    EXPECT_EQ(Run({"estimate", "--json", "--plan", dir / "plan.json"})->Wait(), 1);
    EXPECT_NE(Result()["error"].get<std::string>().find("vm0: getfd"), std::string::npos) << Out();
    ExpectUntouched();
}

TEST_F(GangctlTest, CoordinatorOfAnotherHostIsNotLookedAt) {
    plan["destination_coordinator"] = "/nonexistent/gangd.sock";
    Start();
    EXPECT_EQ(Migrate()->Wait(), 0);
    EXPECT_NE(Out().find("\"event\":\"note\""), std::string::npos);
}

TEST_F(GangctlTest, FailingVmDoesNotStopTheOthers) {
    sources[0]->ends = "failed";
    sources[0]->steps = 1;
    sources[1]->steps = 6;
    Start();
    EXPECT_EQ(Migrate()->Wait(), 1);
    json vms = Result()["vms"];
    EXPECT_EQ(vms[0]["status"], "failed");
    EXPECT_EQ(vms[0]["error"], "connection reset by peer");
    EXPECT_EQ(vms[0]["at"], "source");
    EXPECT_EQ(vms[1]["status"], "completed");
    EXPECT_EQ(Result()["result"], "failed");
}

TEST_F(GangctlTest, VmThatCannotBeStartedDoesNotStopTheOthers) {
    destinations[0]->refuses = "gang-migrate-incoming";
    Start();
    EXPECT_EQ(Migrate()->Wait(), 1);
    EXPECT_EQ(Result()["vms"][0]["status"], "failed");
    EXPECT_TRUE(sources[0]->Asked("gang-migrate").is_null());
    EXPECT_EQ(sources[1]->Asked("gang-migrate")["gang-members"], 1); // nobody waits for it
    EXPECT_EQ(Result()["vms"][1]["status"], "completed");
}

TEST_F(GangctlTest, SourceThatDiesDoesNotStopTheOthers) {
    sources[0]->dies_at = "query-gang";
    Start();
    EXPECT_EQ(Migrate()->Wait(), 1);
    EXPECT_EQ(Result()["vms"][0]["status"], "failed");
    EXPECT_EQ(Result()["vms"][0]["at"], "unknown");
    EXPECT_EQ(Result()["vms"][1]["status"], "completed");
}

TEST_F(GangctlTest, DestinationThatDiesAfterHandOverIsNotCalledASuccess) {
    destinations[0]->silent_at = "";
    destinations[0]->dies_at = "gang-migrate-incoming";
    sources[0]->arrives_at = nullptr;
    Start();
    EXPECT_EQ(Migrate()->Wait(), 1);
    EXPECT_EQ(Result()["vms"][0]["status"], "failed");
}

// A source can be done while its destination has not run yet: no failure.
TEST_F(GangctlTest, DestinationThatStillLoadsIsWaitedFor) {
    destinations[0]->loads = 10;
    Start();
    EXPECT_EQ(Migrate()->Wait(), 0) << Out();
    EXPECT_EQ(Result()["vms"][0]["at"], "destination");
    EXPECT_EQ(Result()["vms"][0]["run_state"], "running");
}

TEST_F(GangctlTest, InterruptionCancelsWhatHasNotArrived) {
    sources[0]->steps = 1;
    sources[1]->steps = -1;
    Start();
    auto gangctl = Migrate();
    ASSERT_TRUE(Soon([&] { return Out().find("\"status\":\"completed\"") != std::string::npos; }))
        << Out();
    gangctl->Signal(SIGINT);
    EXPECT_EQ(gangctl->Wait(), 130);
    EXPECT_TRUE(sources[0]->Asked("migrate_cancel").is_null());
    EXPECT_FALSE(sources[1]->Asked("migrate_cancel").is_null());
    json vms = Result()["vms"];
    EXPECT_EQ(vms[0]["at"], "destination");
    EXPECT_EQ(vms[1]["status"], "cancelled");
    EXPECT_EQ(vms[1]["at"], "source");
    EXPECT_EQ(vms[1]["run_state"], "running");
}

TEST_F(GangctlTest, SecondInterruptionDoesNotWaitForACancellationThatHangs) {
    sources[1]->steps = -1;
    sources[1]->silent_at = "migrate_cancel";
    Start();
    auto gangctl = Migrate();
    ASSERT_TRUE(Soon([&] { return Out().find("scanning") != std::string::npos; }));
    gangctl->Signal(SIGTERM);
    ASSERT_TRUE(Soon([&] { return !sources[1]->Asked("migrate_cancel").is_null(); }));
    EXPECT_EQ(gangctl->Wait(700), -1);
    gangctl->Signal(SIGTERM);
    EXPECT_EQ(gangctl->Wait(), 130);
}

TEST_F(GangctlTest, TimeLimitCancels) {
    sources[0]->steps = sources[1]->steps = -1;
    Start();
    EXPECT_EQ(Migrate({"--timeout", "1"})->Wait(), 1);
    EXPECT_EQ(Result()["result"], "cancelled");
    EXPECT_NE(Result()["vms"][0]["error"].get<std::string>().find("1 s"), std::string::npos);
}

TEST_F(GangctlTest, CancelEndsMigrationsThatOthersStarted) {
    sources[0]->migration = "active";
    sources[0]->steps = -1;
    Start();
    std::vector<std::string> words = {"cancel", "--json", "--vm",
                                      "name=vm0,source=" + sources[0]->path()};
    EXPECT_EQ(Run(words)->Wait(), 0) << Out();
    EXPECT_EQ(Result()["vms"][0]["status"], "cancelled");
    EXPECT_EQ(Result()["vms"][0]["at"], "source");
    EXPECT_EQ(Run(words)->Wait(), 1); // nothing is under way any more
}

TEST_F(GangctlTest, StatusAndWatchShowWhatTheCoordinatorKnows) {
    auto member = gangd.Source("web", "vm1", 2);
    ASSERT_TRUE(Soon([&] { return !gangd.Status()["gangs"].empty(); }));
    EXPECT_EQ(Run({"status", "--socket", gangd.socket})->Wait(), 0);
    EXPECT_NE(Out().find("gang web (source): joining"), std::string::npos) << Out();
    EXPECT_EQ(Run({"status", "--json", "--socket", gangd.socket})->Wait(), 0);
    EXPECT_EQ(Result()["gangs"][0]["members"][0]["member"], "vm1");
    auto watch = Run({"watch", "--json", "--interval", "0.1", "--socket", gangd.socket});
    EXPECT_EQ(watch->Wait(500), -1);
    watch->Signal(SIGINT);
    EXPECT_EQ(watch->Wait(), 130);
    EXPECT_EQ(Run({"watch", "--count", "2", "--interval", "0.1", "--socket", gangd.socket})->Wait(),
              0);
    EXPECT_EQ(Run({"status", "--socket", dir / "absent"})->Wait(), 1);
    EXPECT_NE(Err().find("start gangd"), std::string::npos);
}

} // namespace
} // namespace gang::test
