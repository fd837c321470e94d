// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Clients that gangd has to survive, and gangd's own life: start, end, service
// manager.

#include "gangd_process.h"

#include <random>

#include "testing.h"

namespace gang::test {
namespace {

TEST(GangdProtocol, HelloComesFirstOnceAndWithOurVersionAndLayout) {
    Gangd gangd;
    RawClient none(gangd.socket), version(gangd.socket), layout(gangd.socket), twice(gangd.socket),
        anonymous(gangd.socket);
    none.Send(SourceJoinRequest("web", "vm1", 1));
    EXPECT_EQ(none.Refused(), "protocol");
    EXPECT_TRUE(none.HungUp());

    version.Send({{"op", "hello"}, {"version", 2}});
    EXPECT_EQ(version.Refused(), "incompatible");
    EXPECT_TRUE(version.HungUp());

    layout.Send({{"op", "hello"}, {"version", 1}, {"layout", "0123456789abcdef"}});
    EXPECT_EQ(layout.Refused(), "incompatible");
    EXPECT_TRUE(layout.HungUp());

    EXPECT_TRUE(twice.Hello());
    twice.Send({{"op", "hello"}, {"version", 1}});
    EXPECT_EQ(twice.Refused(), "protocol");
    EXPECT_TRUE(twice.HungUp());

    anonymous.Send({{"op", "hello"}, {"version", 1}});
    EXPECT_EQ(anonymous.Receive()["op"], "hello");
    anonymous.Send({{"op", "status"}});
    EXPECT_EQ(anonymous.Receive()["op"], "status");
    anonymous.Send(SourceJoinRequest("web", "vm1", 1));
    EXPECT_EQ(anonymous.Refused(), "incompatible");
    EXPECT_TRUE(gangd.Serves());
}

TEST(GangdProtocol, JoinsThatCannotBeRightAreRefused) {
    Gangd gangd({"--max-ram", "1G"});
    auto refusal = [&](const char *key, json value) {
        json join = SourceJoinRequest("web", "vm1", 1);
        join[key] = value;
        auto client = gangd.Client();
        client->Send(join);
        std::string code = client->Refused();
        EXPECT_TRUE(client->HungUp()) << key;
        return code;
    };
    EXPECT_EQ(refusal("members", 10000), "invalid"); // nothing is set aside for a claim
    EXPECT_EQ(refusal("members", 0), "invalid");
    EXPECT_EQ(refusal("members", -1), "invalid");
    EXPECT_EQ(refusal("members", "2"), "invalid");
    EXPECT_EQ(refusal("gang", ""), "invalid");
    EXPECT_EQ(refusal("gang", "a b"), "invalid");
    EXPECT_EQ(refusal("gang", std::string(65, 'x')), "invalid");
    EXPECT_EQ(refusal("member", "../vm1"), "invalid");
    EXPECT_EQ(refusal("store", "abc"), "invalid");
    EXPECT_EQ(refusal("seed", std::string(32, 'g')), "invalid");
    EXPECT_EQ(refusal("hash", "md5"), "incompatible");
    EXPECT_EQ(refusal("page-size", 8192), "incompatible");
    EXPECT_EQ(refusal("channels", 65), "invalid");
    EXPECT_EQ(refusal("channels", 0), "invalid");
    EXPECT_EQ(refusal("ram-pages", uint64_t{1} << 60), "limit");
    EXPECT_EQ(refusal("ram-pages", 0), "limit");
    EXPECT_TRUE(gangd.Status()["gangs"].empty());
}

TEST(GangdProtocol, NamesAndMemberCountsOfAGangHaveToAgree) {
    Gangd gangd;
    auto first = gangd.Source("web", "vm1", 2);
    auto same = gangd.Source("web", "vm1", 2);
    EXPECT_EQ(same->Refused(), "exists");
    EXPECT_TRUE(same->HungUp());
    auto other = gangd.Source("web", "vm2", 3);
    EXPECT_EQ(other->Refused(), "invalid");
    auto second = gangd.Source("web", "vm2", 2); // the gang is not spoilt
    EXPECT_EQ(second->Receive()["op"], "directory");
    second->Send(SourceJoinRequest("db", "vm2", 1));
    EXPECT_EQ(second->Refused(), "protocol"); // a connection joins once
}

TEST(GangdProtocol, UnknownRequestIsAnErrorThatEndsNothing) {
    Gangd gangd;
    auto client = gangd.Client();
    client->Send({{"op", "make-tea"}});
    EXPECT_EQ(client->Refused(), "protocol");
    client->Send({{"op", "leave"}, {"result", "completed"}});
    EXPECT_EQ(client->Refused(), "protocol");
    client->Send({{"op", "scanned"}});
    EXPECT_EQ(client->Refused(), "protocol");
    client->Send({{"op", "status"}});
    EXPECT_EQ(client->Receive()["op"], "status");
}

TEST(GangdHostile, MessagesThatAreNoneEndTheirOwnConnectionOnly) {
    Gangd gangd;
    auto bystander = gangd.Source("web", "vm1", 2);
    std::vector<std::string> messages = {"",
                                         "x",
                                         "[]",
                                         "{}",
                                         "null",
                                         "{\"op\": 1}",
                                         "{\"op\":\"status\"} {\"op\":\"status\"}",
                                         std::string(60000, '['),
                                         std::string(65537, ' '),
                                         "{\"op\":\"" + std::string(70000, 'a') + "\"}",
                                         std::string("{\"op\":\"st\0tus\"}", 15),
                                         "{\"op\":\"\xff\xfe\"}"};
    for (const std::string &message : messages) {
        auto client = gangd.Client();
        client->SendText(message);
        if (!message.empty()) { // an empty message reads as the end
            EXPECT_EQ(client->Refused(), "protocol") << message.substr(0, 40);
        }
        if (message.find("\xff") == std::string::npos) {
            EXPECT_TRUE(client->HungUp()) << message.substr(0, 40);
        }
    }
    auto second = gangd.Source("web", "vm2", 2);
    EXPECT_EQ(bystander->Receive()["op"], "directory");
}

TEST(GangdHostile, RandomRequestsDoNotEndGangd) {
    std::mt19937_64 rng(TestSeed());
    Gangd gangd({"--barrier-timeout", "0.2"});
    json values = {nullptr,
                   -1,
                   0,
                   1,
                   2,
                   1e300,
                   true,
                   "",
                   "web",
                   "completed",
                   json::array(),
                   json::object(),
                   std::string(32, 'a'),
                   uint64_t{1} << 63,
                   "xxh3-128",
                   4096};
    const char *ops[] = {"hello", "join-source", "join-destination", "scanned", "leave", "status"};
    for (int i = 0; i < 300; i++) {
        RawClient client(gangd.socket);
        ASSERT_TRUE(client.connected()) << gangd.log();
        if (Below(rng, 4)) {
            client.Hello();
        }
        for (int k = 0; k < 4; k++) {
            json request = Below(rng, 2) ? SourceJoinRequest("web", "vm1", 1)
                                         : DestinationJoinRequest("web", "vm1");
            request["op"] = ops[Below(rng, std::size(ops))];
            auto at = request.begin();
            std::advance(at, static_cast<long>(Below(rng, request.size())));
            if (Below(rng, 2)) {
                at.value() = values[Below(rng, values.size())];
            }
            std::string text = request.dump();
            if (Below(rng, 4) == 0) {
                text[Below(rng, text.size())] = static_cast<char>(Below(rng, 256));
            }
            client.SendText(text);
        }
    }
    EXPECT_TRUE(gangd.Serves());
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty(); }));
}

TEST(GangdHostile, ClientThatReadsNothingIsDroppedWhileOthersGoOn) {
    Gangd gangd;
    auto deaf = gangd.Source("web", "vm1", 3);
    std::vector<std::unique_ptr<RawClient>> crowd; // makes the answers long
    for (int i = 0; i < 40; i++) {
        crowd.push_back(gangd.Client());
        crowd.back()->Send(DestinationJoinRequest("crowd", "vm" + std::to_string(i)));
        EXPECT_EQ(crowd.back()->Receive()["op"], "store");
    }
    auto first = gangd.Source("web", "vm2", 3);
    bool dropped = Soon([&] {
        std::string request = R"({"op":"status"})";
        ssize_t n = send(deaf->fd(), request.data(), request.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        bool gone = n < 0 && errno != EAGAIN && errno != EINTR; // before errno changes
        // Others are answered meanwhile, every time.
        crowd[0]->Send({{"op", "status"}});
        EXPECT_EQ(crowd[0]->Receive()["op"], "status");
        return gone;
    });
    EXPECT_TRUE(dropped);
    auto second = gangd.Source("web", "vm3", 3);
    EXPECT_EQ(second->Receive(20000)["op"], "directory") << gangd.log();
}

TEST(GangdHostile, DescriptorsNobodyAskedForAreClosed) {
    Gangd gangd;
    (void)gangd.Status(); // it has opened what it opens as it begins
    auto client = gangd.Client();
    std::string fds = "/proc/" + std::to_string(gangd.process->pid()) + "/fd";
    auto count = [&] { return std::distance(std::filesystem::directory_iterator(fds), {}); };
    auto before = count();
    for (int i = 0; i < 50; i++) {
        std::string text = R"({"op":"status"})";
        iovec part = {text.data(), text.size()};
        alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {};
        msghdr header = {};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(4 * sizeof(int));
        int sent[4] = {0, 1, 2, 0};
        memcpy(CMSG_DATA(rights), sent, sizeof(sent));
        ASSERT_GT(sendmsg(client->fd(), &header, MSG_NOSIGNAL), 0);
        EXPECT_EQ(client->Receive()["op"], "status");
    }
    EXPECT_LE(count(), before); // less: the probe that found gangd ready is closed
}

TEST(GangdAccess, UserThatIsNotListedIsDenied) {
    NEEDS_ROOT();
    Gangd gangd;
    EXPECT_EQ(AsNobody([&] {
                  RawClient client(gangd.socket);
                  return client.connected() && client.Refused() == "denied" && client.HungUp();
              }),
              0);
    EXPECT_TRUE(gangd.Serves());
    Gangd open({"--allow-user", "nobody"});
    EXPECT_EQ(AsNobody([&] { return RawClient(open.socket).Hello(); }), 0);
    Gangd group({"--allow-group", std::to_string(getpwnam("nobody")->pw_gid)});
    EXPECT_EQ(AsNobody([&] { return RawClient(group.socket).Hello(); }), 0);
}

TEST(GangdAccess, LimitsOfGangsAndConnectionsHold) {
    Gangd gangd({"--max-gangs", "2", "--max-clients", "4"});
    auto one = gangd.Source("one", "vm1", 2), two = gangd.Source("two", "vm1", 2);
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].size() == 2; }));
    EXPECT_EQ(gangd.Source("three", "vm1", 2)->Refused(), "limit");
    EXPECT_TRUE(Soon([&] { return gangd.Serves(); }));
    auto third = gangd.Client(), fourth = gangd.Client();
    RawClient fifth(gangd.socket);
    EXPECT_EQ(fifth.Refused(), "limit");
    EXPECT_TRUE(fifth.HungUp());
}

} // namespace
} // namespace gang::test
