// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Which stores gangd keeps, for whom, and for how long.

#include "gangd_process.h"

#include "store.h"
#include "testing.h"

namespace gang::test {
namespace {

// A destination with one page in the store that it got.
class Destination {
  public:
    Destination(const Gangd &gangd, const char *gang, const char *member, json more = json())
        : client_(gangd.Client()) {
        json request = DestinationJoinRequest(gang, member);
        request.update(more.is_object() ? more : json::object());
        client_->Send(request);
        EXPECT_EQ(client_->Receive()["op"], "store");
        EXPECT_TRUE(Store::Open(client_->received, &store).ok());
    }
    void Fill(uint32_t slot) {
        std::vector<uint8_t> page(kPageSize, 7);
        Hash hash;
        EXPECT_TRUE(store->Put(slot, page.data(), &hash).ok());
    }
    void Leave(const char *result) { client_->Send({{"op", "leave"}, {"result", result}}); }
    void Die() { client_->Close(); }
    int fd() const { return client_->received; }

    std::unique_ptr<Store> store;

  private:
    std::unique_ptr<RawClient> client_;
};

bool NothingKept(const Gangd &gangd) {
    return Soon([&] {
        const json status = gangd.Status();
        return status["gangs"].empty() && status["kept"].empty();
    });
}

bool OneKept(const Gangd &gangd) {
    return Soon([&] { return gangd.Status()["kept"].size() == 1; });
}

TEST(GangdKept, StoreOfAGangThatFailedGoesToItsNextAttempt) {
    for (const char *how : {"failed", "cancelled", "dead"}) {
        Gangd gangd({"--store-keep", "300"});
        Destination first(gangd, "web", "vm1"), other(gangd, "web", "vm2");
        EXPECT_FALSE(first.store->kept());
        EXPECT_LT(first.store->open_slots(), first.store->slots());
        first.Fill(2);
        other.Leave("completed");
        std::string(how) == "dead" ? first.Die() : first.Leave(how);
        ASSERT_TRUE(OneKept(gangd)) << how;
        const json kept = gangd.Status()["kept"][0];
        EXPECT_EQ(kept["gang"], "web");
        EXPECT_EQ(kept["slots-used"], 1);
        EXPECT_LE(kept["seconds-left"], 300);

        Destination again(gangd, "web", "vm1");
        EXPECT_TRUE(again.store->kept());
        EXPECT_EQ(again.store->NextFilled(0), 2u);
        EXPECT_EQ(again.store->seed(), first.store->seed());
        EXPECT_NE(again.store->uuid(), first.store->uuid());
        EXPECT_TRUE(gangd.Status()["kept"].empty());
        again.Leave("completed");
        EXPECT_TRUE(NothingKept(gangd)); // all have what they need
    }
}

TEST(GangdKept, NothingIsKeptOfAGangThatCompletedOrHasNothing) {
    Gangd gangd({"--store-keep", "300"});
    Destination first(gangd, "web", "vm1"), empty(gangd, "db", "vm2");
    first.Fill(0);
    first.Leave("completed");
    empty.Leave("failed");
    EXPECT_TRUE(NothingKept(gangd));
}

TEST(GangdKept, StoreIsDroppedAndWipedWhenItsTimeIsOver) {
    Gangd gangd({"--store-keep", "0.5"});
    Destination first(gangd, "web", "vm1");
    first.Fill(0);
    first.Die();
    EXPECT_TRUE(NothingKept(gangd));
    EXPECT_TRUE(Soon([&] { return first.store->NextFilled(0) == first.store->slots(); }));
    Destination again(gangd, "web", "vm1");
    EXPECT_FALSE(again.store->kept());
}

TEST(GangdKept, OtherHashOrGangDoesNotGetIt) {
    Gangd gangd({"--store-keep", "300"});
    Destination first(gangd, "web", "vm1");
    first.Fill(0);
    first.Leave("failed");
    ASSERT_TRUE(OneKept(gangd));
    EXPECT_FALSE(Destination(gangd, "db", "vm1").store->kept());
    EXPECT_TRUE(OneKept(gangd));
    EXPECT_FALSE(Destination(gangd, "web", "vm1", {{"hash", "sha256"}}).store->kept());
    EXPECT_TRUE(NothingKept(gangd));
}

TEST(GangdKept, WhatOnlyOneVmMayShareIsKeptForItAlone) {
    Gangd gangd({"--store-keep", "300", "--intra-vm-only"});
    Destination first(gangd, "web", "vm1");
    first.Fill(0);
    first.Leave("failed");
    ASSERT_TRUE(OneKept(gangd));
    EXPECT_FALSE(Destination(gangd, "web", "vm2").store->kept());
    EXPECT_TRUE(Destination(gangd, "web", "vm1").store->kept());
}

TEST(GangdKept, Inv8_KeptStoresCountAndMakeWayForOthers) {
    Gangd gangd({"--store-keep", "300", "--store-size", "4M", "--store-total", "6M"});
    Destination first(gangd, "web", "vm1");
    first.Fill(0);
    const uint64_t whole = first.store->slots();
    first.Leave("failed");
    ASSERT_TRUE(OneKept(gangd));
    Destination other(gangd, "db", "vm1");
    EXPECT_EQ(other.store->slots(), whole);
    EXPECT_TRUE(gangd.Status()["kept"].empty());
}

// Which its end would wipe, under whoever has it then.
TEST(GangdKept, StoreIsNotHandedBackAsAnotherGangs) {
    Gangd gangd({"--store-keep", "300"});
    Destination first(gangd, "web", "vm1");
    first.Fill(2);
    first.Leave("failed");
    ASSERT_TRUE(OneKept(gangd));
    for (const char *gang : {"evil", "web"}) {
        auto thief = gangd.Client();
        json request = DestinationJoinRequest(gang, "vm1");
        request["op"] = "rejoin-destination";
        request["store"] = ToHex(first.store->uuid());
        ASSERT_TRUE(thief->SendWith(request, first.fd()));
        EXPECT_EQ(thief->Refused(), "invalid") << gang;
        EXPECT_NE(thief->why.find("another gang's"), std::string::npos) << thief->why;
    }
    Destination again(gangd, "web", "vm1");
    EXPECT_EQ(again.store->NextFilled(0), 2u);
}

TEST(GangdKept, StoreThatIsHandedBackCountsThoseThatAreKept) {
    Gangd gangd({"--store-keep", "300", "--store-size", "4M", "--store-total", "6M"});
    auto member = gangd.Client();
    ASSERT_TRUE(member->Send(DestinationJoinRequest("web", "vm1")));
    ASSERT_EQ(member->Receive()["op"], "store");
    std::unique_ptr<Store> store;
    GANG_OK(Store::Open(member->received, &store));
    gangd.Restart();
    Destination other(gangd, "db", "vm1");
    other.Fill(0);
    other.Leave("failed");
    ASSERT_TRUE(OneKept(gangd));
    auto again = gangd.Client();
    json request = DestinationJoinRequest("web", "vm1");
    request["op"] = "rejoin-destination";
    request["store"] = ToHex(store->uuid());
    ASSERT_TRUE(again->SendWith(request, member->received));
    EXPECT_EQ(again->Receive()["op"], "rejoined");
    EXPECT_TRUE(gangd.Status()["kept"].empty()); // it made way
}

TEST(GangdKept, StoreThatNobodyCouldWriteToIsDropped) {
    Gangd gangd({"--store-keep", "300"});
    Destination first(gangd, "web", "vm1");
    first.Fill(2);
    ASSERT_EQ(fcntl(first.fd(), F_SETFL, fcntl(first.fd(), F_GETFL) | O_APPEND), 0);
    first.Leave("failed");
    ASSERT_TRUE(OneKept(gangd));
    Destination again(gangd, "web", "vm1");
    EXPECT_FALSE(again.store->kept());
    EXPECT_EQ(fcntl(again.fd(), F_GETFL) & O_APPEND, 0);
    EXPECT_NE(gangd.log().find("O_APPEND"), std::string::npos) << gangd.log();
}

TEST(GangdKept, OperatorDropsIt) {
    Gangd gangd({"--store-keep", "300"});
    for (const char *gang : {"web", "db"}) {
        Destination first(gangd, gang, "vm1");
        first.Fill(0);
        first.Leave("failed");
    }
    ASSERT_TRUE(Soon([&] { return gangd.Status()["kept"].size() == 2; }));
    std::unique_ptr<ControlClient> client;
    GANG_OK(ControlClient::Connect(gangd.socket, kSoonMs, &client));
    GANG_OK(client->Hello("test", false, kSoonMs));
    uint64_t dropped = 9;
    GANG_OK(client->Forget("other", &dropped, kSoonMs));
    EXPECT_EQ(dropped, 0u);
    GANG_OK(client->Forget("web", &dropped, kSoonMs));
    EXPECT_EQ(dropped, 1u);
    GANG_OK(client->Forget("", &dropped, kSoonMs));
    EXPECT_EQ(dropped, 1u);
    EXPECT_TRUE(NothingKept(gangd));
}

TEST(GangdKept, PagesThatOnlyOneVmHadAreNotSavedIfToldSo) {
    Gangd gangd({"--store-keep", "300", "--keep-shared-only"});
    Destination first(gangd, "web", "vm1");
    EXPECT_EQ(first.store->open_slots(), first.store->slots());
}

TEST(GangdKept, AnotherUserGetsNothingThatWasKept) {
    NEEDS_ROOT();
    Gangd gangd({"--store-keep", "300", "--allow-user", "nobody"});
    Destination first(gangd, "web", "vm1");
    first.Fill(2);
    first.Leave("failed");
    ASSERT_TRUE(OneKept(gangd));
    EXPECT_EQ(AsNobody([&] {
                  RawClient client(gangd.socket);
                  std::unique_ptr<Store> store;
                  return client.Hello() && client.Send(DestinationJoinRequest("web", "vm1")) &&
                         client.Receive().value("op", "") == "store" &&
                         Store::Open(client.received, &store).ok() && !store->kept() &&
                         store->NextFilled(0) >= store->slots();
              }),
              0);
    EXPECT_TRUE(NothingKept(gangd));
    EXPECT_NE(gangd.log().find("another user names its gang"), std::string::npos) << gangd.log();
}

} // namespace
} // namespace gang::test
