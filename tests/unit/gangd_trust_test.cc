// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Who may see what, and who may share with whom: docs/security.md.

#include "gangd_process.h"

#include <set>

#include "store.h"
#include "testing.h"

namespace gang::test {
namespace {

// --- the status

TEST(GangdTrust, StatusIsNotForTheUsersOfVms) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody"});
    auto other = gangd.Source("secret-id", "vm1", 2); // root's
    EXPECT_EQ(AsNobody([&] {
                  RawClient client(gangd.socket);
                  if (!client.Hello() || !client.Send({{"op", "status"}}) ||
                      client.Refused() != "denied" ||
                      client.why.find("allow-operator") == std::string::npos ||
                      client.why.find("secret") != std::string::npos) {
                      return false;
                  }
                  // It was no crime: the member goes on.
                  return client.Send(DestinationJoinRequest("own", "vm1")) &&
                         client.Receive().value("op", "") == "store" &&
                         client.Send({{"op", "status"}}) && client.Refused() == "denied";
              }),
              0);
    EXPECT_TRUE(other->Silent(0));
    EXPECT_FALSE(gangd.Status()["gangs"].empty()); // root sees it
}

TEST(GangdTrust, OperatorSeesTheStatusAndJoinsNothing) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-operator", "nobody"});
    auto member = gangd.Source("web", "vm1", 2);
    EXPECT_TRUE(Soon([&] { return !gangd.Status()["gangs"].empty(); }));
    EXPECT_EQ(AsNobody([&] {
                  RawClient client(gangd.socket), source(gangd.socket);
                  if (!client.Hello() || !client.Send({{"op", "status"}}) ||
                      client.Receive()["gangs"][0].value("gang", "") != "web" ||
                      !client.Send(DestinationJoinRequest("web", "vm2")) ||
                      client.Refused() != "denied" || !client.HungUp()) {
                      return false;
                  }
                  return source.Hello() && source.Send(SourceJoinRequest("web", "vm2", 2)) &&
                         source.Refused() == "denied" && source.received < 0;
              }),
              0);
    EXPECT_TRUE(member->Silent(0));
    Gangd both({"--allow-operator", "nobody", "--allow-user", "nobody"});
    EXPECT_EQ(AsNobody([&] {
                  RawClient client(both.socket);
                  return client.Hello() && client.Send(DestinationJoinRequest("web", "vm2")) &&
                         client.Receive().value("op", "") == "store" &&
                         client.Send({{"op", "status"}}) &&
                         client.Receive().value("op", "") == "status";
              }),
              0);
}

TEST(GangdTrust, GangctlShowsTheStatusToOperatorsOnly) {
    NEEDS_ROOT();
    // Its path may lead through directories that are root's only.
    int program = open(GANGCTL_PATH, O_RDONLY);
    ASSERT_GE(program, 0);
    auto gangctl = [&](const Gangd &gangd, const std::string &name) {
        Process process(
            {"/proc/self/fd/" + std::to_string(program), "status", "--socket", gangd.socket},
            gangd.dir / (name + ".out"), gangd.dir / (name + ".err"), [] {
                if (!BecomeNobody()) {
                    _exit(126);
                }
            });
        return process.Wait();
    };
    Gangd operators({"--allow-operator", "nobody"}), users({"--allow-user", "nobody"});
    EXPECT_EQ(gangctl(operators, "seen"), 0) << ReadAll(operators.dir / "seen.err");
    EXPECT_EQ(gangctl(users, "denied"), 1);
    EXPECT_NE(ReadAll(users.dir / "denied.err").find("allow-operator"), std::string::npos)
        << ReadAll(users.dir / "denied.err");
    close(program);
}

// --- whose gang

TEST(GangdTrust, GangOfAnotherUserCannotBeJoinedNorMeasured) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody"});
    auto source = gangd.Source("web", "vm1", 2);
    auto destination = gangd.Client();
    destination->Send(DestinationJoinRequest("web", "vm1"));
    EXPECT_EQ(destination->Receive()["op"], "store");
    EXPECT_EQ(AsNobody([&] {
                  // With the right number of members, a wrong one, and a name that is taken:
                  // the answer tells nothing of them.
                  std::set<std::string> answers;
                  json fast = DestinationJoinRequest("web", "vm2"), slow = fast;
                  fast["hash"] = "xxh3-128";
                  slow["hash"] = "sha256";
                  for (const json &request :
                       {SourceJoinRequest("web", "vm2", 2), SourceJoinRequest("web", "vm2", 3),
                        SourceJoinRequest("web", "vm1", 2), DestinationJoinRequest("web", "vm2"),
                        DestinationJoinRequest("web", "vm1"), fast, slow}) {
                      RawClient client(gangd.socket);
                      if (!client.Hello() || !client.Send(request) ||
                          client.Refused() != "denied" || client.received >= 0) {
                          return false;
                      }
                      answers.insert(client.why);
                  }
                  return answers.size() == 1;
              }),
              0);
    auto second = gangd.Source("web", "vm2", 2); // the gang is not spoilt
    EXPECT_EQ(source->Receive()["op"], "directory");
    EXPECT_EQ(second->Receive()["missing"], 0);
}

TEST(GangdTrust, UsersMayShareWhereTheAdministratorSaysSo) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody", "--share-across-users"});
    auto destination = gangd.Client();
    destination->Send(DestinationJoinRequest("web", "vm1"));
    EXPECT_EQ(destination->Receive()["op"], "store");
    const ino_t inode = Inode(destination->received);
    EXPECT_EQ(AsNobody([&] {
                  RawClient client(gangd.socket);
                  return client.Hello() && client.Send(DestinationJoinRequest("web", "vm2")) &&
                         client.Receive().value("op", "") == "store" &&
                         Inode(client.received) == inode;
              }),
              0);
}

// --- each VM for itself

// A page of both VMs' content, so that sharing would show.
TEST(GangdIntraVm, VmsOfOneGangShareNothing) {
    Gangd gangd({"--intra-vm-only"});
    auto join = [&](const char *name) {
        auto client = gangd.Client();
        client->Send(DestinationJoinRequest("web", name));
        EXPECT_EQ(client->Receive()["op"], "store");
        return client;
    };
    auto first = join("vm1"), second = join("vm2");
    EXPECT_NE(Inode(first->received), Inode(second->received));
    std::unique_ptr<Store> one, two;
    GANG_OK(Store::Open(first->received, &one));
    GANG_OK(Store::Open(second->received, &two));
    EXPECT_NE(one->uuid(), two->uuid()); // which parts the directories at the source
    EXPECT_NE(one->seed(), two->seed()); // and makes equal pages' hashes differ
    std::vector<uint8_t> page(kPageSize, 7);
    Hash hash;
    GANG_OK(one->Put(0, page.data(), &hash));
    EXPECT_FALSE(two->Get(0, page.data(), &hash).ok());

    json status = gangd.Status();
    ASSERT_EQ(status["gangs"].size(), 2u);
    for (const json &gang : status["gangs"]) {
        EXPECT_EQ(gang["gang"], "web");
        EXPECT_EQ(gang["members"].size(), 1u);
    }
    auto again = gangd.Client();
    again->Send(DestinationJoinRequest("web", "vm1"));
    EXPECT_EQ(again->Refused(), "exists");
}

TEST(GangdIntraVm, SourcesOfTwoStoresGetDirectoriesOfTheirOwn) {
    Gangd gangd({"--intra-vm-only"});
    auto first = gangd.Source("web", "vm1", 2, 'a'), second = gangd.Source("web", "vm2", 2, 'b');
    EXPECT_EQ(first->Receive()["op"], "directory");
    EXPECT_EQ(second->Receive()["op"], "directory");
    EXPECT_NE(Inode(first->received), Inode(second->received));
}

// The other host has not been told: better no migration than a shared one.
TEST(GangdIntraVm, StoreOfSeveralVmsIsRefusedAtTheSource) {
    Gangd gangd({"--intra-vm-only"});
    auto first = gangd.Source("web", "vm1", 2, 'a');
    EXPECT_TRUE(Soon([&] { return !gangd.Status()["gangs"].empty(); }));
    for (const char *gang : {"web", "other"}) {
        auto second = gangd.Source(gang, "vm2", 2, 'a');
        EXPECT_EQ(second->Refused(), "incompatible");
        EXPECT_NE(second->why.find("intra-vm-only"), std::string::npos) << second->why;
    }
}

// The same without any option: gangs of one.
TEST(GangdIntraVm, GangsOfOneShareNothing) {
    Gangd gangd;
    auto first = gangd.Source("vm1-alone", "vm1", 1, 'a');
    auto second = gangd.Source("vm2-alone", "vm2", 1, 'a');
    EXPECT_EQ(first->Receive()["op"], "directory");
    EXPECT_EQ(second->Receive()["op"], "directory");
    EXPECT_NE(Inode(first->received), Inode(second->received));
    auto one = gangd.Client(), two = gangd.Client();
    one->Send(DestinationJoinRequest("vm1-alone", "vm1"));
    two->Send(DestinationJoinRequest("vm2-alone", "vm2"));
    EXPECT_EQ(one->Receive()["op"], "store");
    EXPECT_EQ(two->Receive()["op"], "store");
    EXPECT_NE(Inode(one->received), Inode(two->received));
}

} // namespace
} // namespace gang::test
