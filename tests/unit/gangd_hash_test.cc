// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Who chooses a gang's hash: the destination's first member, its gangd where that
// asks for none, and nobody afterwards.

#include <gtest/gtest.h>

#include "directory.h"
#include "gangd_process.h"
#include "store.h"

namespace gang {
namespace {

using namespace test;

// What gangd answers to a destination that joins with this hash; empty: none named.
json Join(const Gangd &gangd, RawClient *client, const std::string &gang, const std::string &member,
          const json &hash = nullptr) {
    json request = DestinationJoinRequest(gang, member);
    if (!hash.is_null()) {
        request["hash"] = hash;
    }
    EXPECT_TRUE(client->Send(request)) << gangd.log();
    return client->Receive();
}

HashKind KindOf(RawClient *client) {
    const int fd = client->TakeFd();
    std::unique_ptr<Store> store;
    const Status status = Store::Open(fd, &store);
    close(fd);
    EXPECT_TRUE(status.ok()) << status.message();
    return status.ok() ? store->hash_kind() : HashKind::kInvalid;
}

TEST(GangdHash, IsTheConfiguredOneUnlessTheFirstMemberAsksForAnother) {
    Gangd plain, strict({"--hash", "sha256"});
    auto a = plain.Client(), b = plain.Client(), c = strict.Client();
    EXPECT_EQ(Join(plain, a.get(), "web", "vm1").value("hash", ""), "xxh3-128");
    EXPECT_EQ(KindOf(a.get()), HashKind::kXxh3_128);
    EXPECT_EQ(Join(plain, b.get(), "db", "vm1", "sha256").value("hash", ""), "sha256");
    EXPECT_EQ(KindOf(b.get()), HashKind::kSha256);
    EXPECT_EQ(Join(strict, c.get(), "web", "vm1").value("hash", ""), "sha256");
    EXPECT_EQ(KindOf(c.get()), HashKind::kSha256);
}

TEST(GangdHash, OfAGangStaysWhatItIs) {
    Gangd gangd;
    auto a = gangd.Client(), b = gangd.Client(), c = gangd.Client(), d = gangd.Client();
    ASSERT_EQ(Join(gangd, a.get(), "web", "vm1", "sha256").value("op", ""), "store");
    const json refused = Join(gangd, b.get(), "web", "vm2", "xxh3-128");
    EXPECT_EQ(refused.value("code", ""), "invalid");
    EXPECT_NE(refused.value("error", "").find("has the hash sha256, not xxh3-128"),
              std::string::npos)
        << refused;
    EXPECT_TRUE(b->HungUp());
    EXPECT_EQ(Join(gangd, c.get(), "web", "vm2").value("hash", ""), "sha256");
    EXPECT_EQ(Join(gangd, d.get(), "web", "vm3", "sha256").value("op", ""), "store");
    const json status = gangd.Status();
    EXPECT_EQ(status["gangs"][0].value("hash", ""), "sha256") << status;
    EXPECT_EQ(status["gangs"][0]["members"].size(), 3u) << status;
}

// Who has taken over a member must not be able to make its host's gangs weaker than
// the administrator wants them.
TEST(GangdHash, NobodyGetsAWeakerOneThanConfigured) {
    Gangd gangd({"--hash", "sha256"});
    auto a = gangd.Client(), b = gangd.Client();
    EXPECT_EQ(Join(gangd, a.get(), "web", "vm1", "xxh3-128").value("code", ""), "denied");
    EXPECT_EQ(Join(gangd, b.get(), "web", "vm1", "sha256").value("op", ""), "store");
}

TEST(GangdHash, UnknownOnesAreRefused) {
    Gangd gangd;
    for (const json &hash : {json("md5"), json(""), json(2), json("SHA256"), json::array()}) {
        auto client = gangd.Client();
        EXPECT_EQ(Join(gangd, client.get(), "web", "vm1", hash).value("code", ""), "incompatible")
            << hash;
    }
    EXPECT_TRUE(gangd.Status()["gangs"].empty());
    auto source = gangd.Client();
    json request = SourceJoinRequest("web", "vm1", 1);
    request["hash"] = "md5";
    ASSERT_TRUE(source->Send(request));
    EXPECT_EQ(source->Receive().value("code", ""), "incompatible");
}

// Two destinations that say they have one store, and disagree about its hash.
TEST(GangdHash, OfASourcesDirectoryIsTheGreetings) {
    Gangd gangd;
    auto a = gangd.Client(), b = gangd.Client();
    json request = SourceJoinRequest("web", "vm1", 2);
    request["hash"] = "sha256";
    ASSERT_TRUE(a->Send(request));
    ASSERT_TRUE(Soon([&] { return gangd.Status()["gangs"].size() == 1; })); // it comes first
    ASSERT_TRUE(b->Send(SourceJoinRequest("web", "vm2", 2)));
    const json first = a->Receive(), second = b->Receive();
    EXPECT_EQ(first.value("op", ""), "directory") << first;
    EXPECT_NE(second.value("error", "").find("different seeds or hashes"), std::string::npos)
        << second;
    std::unique_ptr<Directory> directory;
    const int fd = a->TakeFd();
    ASSERT_TRUE(Directory::Open(fd, &directory).ok());
    close(fd);
    EXPECT_EQ(directory->hash_kind(), HashKind::kSha256);
    EXPECT_EQ(gangd.Status()["gangs"][0]["stores"][0].value("hash", ""), "sha256");
}

} // namespace
} // namespace gang
