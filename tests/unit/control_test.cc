// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The client's end of the coordinator's socket against a coordinator that is
// absent, silent, gone or hostile.  What a real gangd does is gangd_test's.

#include "control.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "control_message.h"
#include "size_text.h"
#include "testing.h"

namespace gang {
namespace {

using nlohmann::json;

constexpr int kPatienceMs = 5000; // for what comes at once

size_t OpenDescriptors() {
    size_t count = 0;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        (void)entry;
        count++;
    }
    return count;
}

class Stopwatch {
  public:
    int64_t ms() const {
        return std::chrono::duration_cast<std::chrono::milliseconds>(
                   std::chrono::steady_clock::now() - start_)
            .count();
    }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// A coordinator that says exactly what a test wants.
class ControlTest : public testing::Test {
  protected:
    void SetUp() override {
        char pattern[] = "/tmp/gang-control-XXXXXX";
        ASSERT_NE(mkdtemp(pattern), nullptr);
        directory_ = pattern;
        path_ = directory_ + "/s";
    }
    void TearDown() override {
        Close(&peer_);
        Close(&listener_);
        client_.reset();
        std::filesystem::remove_all(directory_);
    }

    void Listen(int backlog = 8) {
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
        listener_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        ASSERT_EQ(bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
        ASSERT_EQ(listen(listener_, backlog), 0);
    }
    void Connect() {
        Listen();
        Status status = ControlClient::Connect(path_, kPatienceMs, &client_);
        ASSERT_TRUE(status.ok()) << status.message();
        peer_ = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        ASSERT_GE(peer_, 0);
    }
    static void Close(int *fd) {
        if (*fd >= 0) {
            close(*fd);
            *fd = -1;
        }
    }

    void Say(const std::string &text, std::vector<int> fds = {}) {
        iovec part = {const_cast<char *>(text.data()), text.size()};
        msghdr header = {};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
        if (!fds.empty()) {
            header.msg_control = control.data();
            header.msg_controllen = control.size();
            cmsghdr *rights = CMSG_FIRSTHDR(&header);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
            memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
        }
        ASSERT_EQ(sendmsg(peer_, &header, MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
    }

    std::string directory_, path_;
    int listener_ = -1;
    int peer_ = -1;
    std::unique_ptr<ControlClient> client_;
};

TEST_F(ControlTest, AbsentCoordinatorIsRefusedAtOnceWithAdvice) {
    Stopwatch watch;
    Status status = ControlClient::Connect(path_, kPatienceMs, &client_);
    EXPECT_EQ(status.code(), Code::kUnavailable);
    EXPECT_NE(status.message().find(path_), std::string::npos);
    EXPECT_NE(status.message().find("systemctl start gangd.socket"), std::string::npos);
    EXPECT_NE(status.message().find("gang-socket"), std::string::npos);
    EXPECT_LT(watch.ms(), 1000);
    EXPECT_EQ(client_, nullptr);
}

TEST_F(ControlTest, PathThatCannotBeASocketIsInvalid) {
    EXPECT_EQ(ControlClient::Connect("", 0, &client_).code(), Code::kInvalid);
    EXPECT_EQ(ControlClient::Connect(std::string(200, 'x'), 0, &client_).code(), Code::kInvalid);
    EXPECT_EQ(ControlClient::Connect(std::string("/a\0b", 4), 0, &client_).code(), Code::kInvalid);
}

TEST_F(ControlTest, FullBacklogOfAStoppedCoordinatorEndsInTime) {
    Listen(1);
    std::vector<std::unique_ptr<ControlClient>> waiting;
    Status status;
    Stopwatch watch;
    for (int i = 0; i < 8 && status.ok(); i++) {
        std::unique_ptr<ControlClient> client;
        status = ControlClient::Connect(path_, 200, &client);
        if (status.ok()) {
            waiting.push_back(std::move(client));
        }
    }
    EXPECT_EQ(status.code(), Code::kUnavailable);
    EXPECT_NE(status.message().find("accepts no connection"), std::string::npos);
    EXPECT_LT(watch.ms(), 2000);
}

TEST_F(ControlTest, SilentCoordinatorEndsEveryCallInTime) {
    Connect();
    Stopwatch watch;
    EXPECT_EQ(client_->Hello("test", true, 100).code(), Code::kUnavailable);
    bool ready = true;
    DirectoryGrant directory;
    EXPECT_TRUE(client_->PollDirectory(&directory, &ready, 0).ok());
    EXPECT_FALSE(ready);
    EXPECT_TRUE(client_->PollStart(&ready, 100).ok());
    EXPECT_FALSE(ready);
    StoreGrant store;
    EXPECT_EQ(client_->JoinDestination("g", "m", &store, 100).code(), Code::kUnavailable);
    json status;
    EXPECT_EQ(client_->QueryStatus(&status, 100).code(), Code::kUnavailable);
    EXPECT_GE(watch.ms(), 300);
    EXPECT_LT(watch.ms(), 3000);
}

TEST_F(ControlTest, CoordinatorThatDoesNotReadEndsSendInTime) {
    Connect();
    Stopwatch watch;
    Status status;
    json big = {{"op", "scanned"}, {"pad", std::string(60000, 'x')}};
    for (int i = 0; i < 1000 && status.ok(); i++) {
        status = client_->Send(big, 50);
    }
    EXPECT_EQ(status.code(), Code::kUnavailable);
    EXPECT_LT(watch.ms(), 3000);
}

TEST_F(ControlTest, HangUpIsUnavailableAndRaisesNoSignal) {
    Connect();
    Close(&peer_);
    bool ready = true;
    EXPECT_EQ(client_->PollStart(&ready, kPatienceMs).code(), Code::kUnavailable);
    EXPECT_FALSE(ready);
    // SIGPIPE would end this process.
    EXPECT_EQ(client_->Scanned(0).code(), Code::kUnavailable);
    EXPECT_EQ(client_->Leave(LeaveResult::kFailed).code(), Code::kUnavailable);
}

TEST_F(ControlTest, ReasonIsReadThoughCoordinatorClosedWithOurHelloUnread) {
    Connect();
    std::thread coordinator([this] {
        char byte;
        recv(peer_, &byte, 1, MSG_PEEK); // the hello is there, and stays unread
        Say(R"({"error": "user 7 may not", "code": "denied"})");
        Close(&peer_);
    });
    Status status = client_->Hello("test", true, kPatienceMs);
    coordinator.join();
    EXPECT_EQ(status.code(), Code::kUnavailable);
    EXPECT_NE(status.message().find("user 7 may not"), std::string::npos) << status.message();
}

TEST_F(ControlTest, RefusalsKeepTheirKind) {
    const std::pair<const char *, Code> kKinds[] = {
        {"protocol", Code::kInvalid},  {"incompatible", Code::kIncompatible},
        {"limit", Code::kExhausted},   {"exists", Code::kInvalid},
        {"invalid", Code::kInvalid},   {"internal", Code::kSystem},
        {"denied", Code::kUnavailable}};
    Connect();
    for (const auto &[word, code] : kKinds) {
        Say(json({{"error", "because"}, {"code", word}}).dump());
        bool ready = true;
        Status status = client_->PollStart(&ready, kPatienceMs);
        EXPECT_EQ(status.code(), code) << word;
        EXPECT_NE(status.message().find("because"), std::string::npos);
    }
}

TEST_F(ControlTest, WhatIsNoMessageIsAnError) {
    Connect();
    std::string deep(40000, '[');
    std::string deep_object;
    for (int i = 0; i < 5000; i++) {
        deep_object += "{\"a\":";
    }
    for (const std::string &text :
         {std::string("x"), std::string("[]"), std::string("17"), std::string("{\"op\""),
          std::string("{\"op\":\"start\"} x"), deep, deep_object, std::string("\xff\xfe"),
          std::string(kMaxControlMessage + 1, ' ')}) {
        Say(text);
        json message;
        int fd = 0;
        EXPECT_EQ(client_->Receive(&message, &fd, kPatienceMs), Received::kError)
            << text.substr(0, 20);
        EXPECT_EQ(fd, -1);
        EXPECT_FALSE(client_->last_error().ok());
    }
    Say(R"({"op": "start"})"); // and the connection still works
    bool ready = false;
    EXPECT_TRUE(client_->PollStart(&ready, kPatienceMs).ok());
    EXPECT_TRUE(ready);
}

TEST_F(ControlTest, LongestMessageArrivesWhole) {
    Connect();
    std::string text = R"({"op": "start", "pad": ")";
    text += std::string(kMaxControlMessage - text.size() - 2, 'x') + "\"}";
    ASSERT_EQ(text.size(), kMaxControlMessage);
    Say(text);
    bool ready = false;
    EXPECT_TRUE(client_->PollStart(&ready, kPatienceMs).ok());
    EXPECT_TRUE(ready);
}

TEST_F(ControlTest, UninvitedDescriptorsAreClosed) {
    Connect();
    int memory = memfd_create("test", MFD_CLOEXEC);
    ASSERT_GE(memory, 0);
    size_t before = OpenDescriptors();
    bool ready = false;
    Say(R"({"op": "start"})", {memory});
    EXPECT_TRUE(client_->PollStart(&ready, kPatienceMs).ok());
    EXPECT_TRUE(ready);
    EXPECT_EQ(OpenDescriptors(), before);

    for (size_t count : {2, 8, 60}) {
        json message;
        int fd = 0;
        Say(R"({"op": "store"})", std::vector<int>(count, memory));
        EXPECT_EQ(client_->Receive(&message, &fd, kPatienceMs), Received::kError) << count;
        EXPECT_EQ(fd, -1);
        EXPECT_EQ(OpenDescriptors(), before) << count;
    }
    for (const char *text : {"no json", R"({"error": "x"})", R"({"op": "hello"})",
                             R"({"op": "directory"})", R"({"op": "directory", "index": 128,
                                "joined": 1, "missing": 0})",
                             R"({"op": "directory", "index": -1, "joined": 1, "missing": 0})",
                             R"({"op": "directory", "index": "0", "joined": 1, "missing": 0})"}) {
        DirectoryGrant grant;
        Say(text, {memory});
        EXPECT_FALSE(client_->PollDirectory(&grant, &ready, kPatienceMs).ok()) << text;
        EXPECT_FALSE(ready);
        EXPECT_EQ(grant.fd, -1);
        EXPECT_EQ(OpenDescriptors(), before) << text;
    }
    close(memory);
}

TEST_F(ControlTest, GrantedDescriptorIsClosedOnExec) {
    Connect();
    int memory = memfd_create("test", MFD_CLOEXEC);
    Say(R"({"op": "directory", "index": 3, "joined": 4, "missing": 1})", {memory});
    close(memory);
    DirectoryGrant grant;
    bool ready = false;
    ASSERT_TRUE(client_->PollDirectory(&grant, &ready, kPatienceMs).ok());
    ASSERT_TRUE(ready);
    EXPECT_EQ(fcntl(grant.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    EXPECT_EQ(grant.index, 3u);
    EXPECT_EQ(grant.joined, 4u);
    EXPECT_EQ(grant.missing, 1u);
    close(grant.fd);
}

TEST_F(ControlTest, DirectoryWithoutDescriptorIsAnError) {
    Connect();
    DirectoryGrant grant;
    bool ready = true;
    Say(R"({"op": "directory", "index": 0, "joined": 1, "missing": 0})");
    EXPECT_EQ(client_->PollDirectory(&grant, &ready, kPatienceMs).code(), Code::kInvalid);
    EXPECT_FALSE(ready);
    Say(R"({"op": "store", "slots": 64})");
    StoreGrant store;
    EXPECT_EQ(client_->JoinDestination("g", "m", &store, kPatienceMs).code(), Code::kInvalid);
}

TEST_F(ControlTest, OtherVersionOrLayoutIsIncompatible) {
    Connect();
    Say(R"({"op": "hello", "version": 2, "layout": "0"})");
    EXPECT_EQ(client_->Hello("test", true, kPatienceMs).code(), Code::kIncompatible);
    Say(R"({"op": "hello", "version": 1, "layout": "0123456789abcdef"})");
    EXPECT_EQ(client_->Hello("test", true, kPatienceMs).code(), Code::kIncompatible);
    Say(R"({"op": "hello", "version": 1})");
    EXPECT_TRUE(client_->Hello("test", false, kPatienceMs).ok());
}

TEST_F(ControlTest, NamesThatAreNotUtf8DoNotThrow) {
    Connect();
    SourceJoin join;
    join.gang = "\xff\xfe";
    join.member = std::string("\xc3", 1);
    EXPECT_TRUE(client_->JoinSource(join, kPatienceMs).ok());
}

TEST_F(ControlTest, PagesOfStatusBecomeOne) {
    Connect();
    Say(R"({"op": "status", "gangd": "x", "pid": 1, "next": "2", "gangs": [
            {"gang": "a", "members": [{"member": "1"}]},
            {"gang": "b", "members": [{"member": "2"}]}]})");
    Say(R"({"op": "status", "gangd": "x", "pid": 1, "gangs": [
            {"gang": "b", "continued": true, "members": [{"member": "3"}]},
            {"gang": "c", "members": []}]})");
    json status;
    ASSERT_TRUE(client_->QueryStatus(&status, kPatienceMs).ok());
    EXPECT_EQ(status, json::parse(R"({"gangd": "x", "pid": 1, "gangs": [
        {"gang": "a", "members": [{"member": "1"}]},
        {"gang": "b", "members": [{"member": "2"}, {"member": "3"}]},
        {"gang": "c", "members": []}]})"));
}

TEST_F(ControlTest, StatusOfAnotherShapeIsAnErrorNotACrash) {
    Connect();
    json status;
    for (const char *text : {R"({"op": "status"})", R"({"op": "status", "gangs": 1})"}) {
        Say(text);
        EXPECT_EQ(client_->QueryStatus(&status, kPatienceMs).code(), Code::kInvalid);
    }
    Say(R"({"op": "status", "next": "1", "gangs": [1, "x", null]})");
    Say(R"({"op": "status", "gangs": [{"continued": true}, {"continued": 1, "members": 3}, []]})");
    EXPECT_TRUE(client_->QueryStatus(&status, kPatienceMs).ok());
}

// ------------------------------------------------------------ control_message.h

TEST(ControlMessage, NamesAreShortAndPlain) {
    for (const char *good : {"a", "web-1", "A.b_c:d", "0"}) {
        EXPECT_TRUE(ValidName(good)) << good;
    }
    for (const char *bad : {"", "a b", "a/b", "\n", "\xc3\xa4", "a\"", "a{"}) {
        EXPECT_FALSE(ValidName(bad)) << bad;
    }
    EXPECT_TRUE(ValidName(std::string(64, 'x')));
    EXPECT_FALSE(ValidName(std::string(65, 'x')));
    EXPECT_FALSE(ValidName(std::string("a\0b", 3)));
}

TEST(ControlMessage, HexGoesThereAndBack) {
    Uuid bytes;
    for (size_t i = 0; i < bytes.size(); i++) {
        bytes[i] = static_cast<uint8_t>(i * 17);
    }
    Uuid back;
    ASSERT_TRUE(FromHex(ToHex(bytes), &back));
    EXPECT_EQ(back, bytes);
    EXPECT_EQ(ToHex(bytes), "00112233445566778899aabbccddeeff");
    EXPECT_TRUE(FromHex("00112233445566778899AABBCCDDEEFF", &back));
    for (std::string bad :
         {"", "00", "00112233445566778899aabbccddeef", "g0112233445566778899aab",
          "00112233445566778899aabbccddeef ", "00112233445566778899aabbccddeeff0"}) {
        EXPECT_FALSE(FromHex(bad, &back)) << bad;
    }
    EXPECT_EQ(LayoutText(0x0123456789abcdefULL), "0123456789abcdef");
    EXPECT_EQ(LayoutText(1), "0000000000000001");
}

TEST(ControlMessage, NumbersHaveToBeNumbers) {
    uint64_t value = 7;
    json object;
    ASSERT_TRUE(ParseMessage(R"({"a": 5, "b": -1, "c": 1.0, "d": "5", "e": null, "f": [5],
                                 "g": 18446744073709551616})",
                             &object));
    EXPECT_TRUE(GetUint(object, "a", 5, &value));
    EXPECT_EQ(value, 5u);
    EXPECT_FALSE(GetUint(object, "a", 4, &value));
    for (const char *key : {"b", "c", "d", "e", "f", "g", "absent"}) {
        EXPECT_FALSE(GetUint(object, key, UINT64_MAX, &value)) << key;
    }
    std::string text;
    EXPECT_FALSE(GetString(object, "a", &text));
    EXPECT_FALSE(GetString(json::array(), "a", &text));
    EXPECT_TRUE(GetString(object, "d", &text));
}

TEST(ControlMessage, BracketsInStringsAreNotDepth) {
    json message;
    EXPECT_TRUE(ParseMessage("{\"a\": \"" + std::string(1000, '[') + "\\\"[[[\"}", &message));
    EXPECT_FALSE(ParseMessage("{\"a\": " + std::string(kMaxControlDepth, '[') +
                                  std::string(kMaxControlDepth, ']') + "}",
                              &message));
    EXPECT_TRUE(ParseMessage("{\"a\": " + std::string(kMaxControlDepth - 1, '[') +
                                 std::string(kMaxControlDepth - 1, ']') + "}",
                             &message));
}

TEST(ControlMessage, AnyBytesGiveAnAnswerAndCanBePrinted) {
    test::Rng rng(test::TestSeed());
    const std::string seed = R"({"op": "join-source", "gang": "w\u00e9b", "members": [4, -1.5e3],
                                 "x": {"y": null, "z": true}})";
    int objects = 0;
    for (int i = 0; i < 20000; i++) {
        std::string text = seed;
        for (uint64_t n = test::Below(rng, 6); n > 0; n--) {
            size_t at = test::Below(rng, text.size());
            switch (test::Below(rng, 3)) {
            case 0:
                text[at] = static_cast<char>(rng());
                break;
            case 1:
                text.erase(at, 1 + test::Below(rng, 5));
                break;
            default:
                text.insert(at, text.substr(test::Below(rng, text.size()), test::Below(rng, 20)));
            }
            if (text.empty()) {
                text = "{";
            }
        }
        json message;
        if (ParseMessage(text, &message)) {
            objects++;
            std::string op;
            uint64_t number;
            GetString(message, "op", &op);
            GetUint(message, "members", 100, &number);
            EXPECT_FALSE(DumpMessage(message).empty());
        }
    }
    EXPECT_GT(objects, 100);
}

TEST(SizeText, SizesAreBytesOrPowersOf1024) {
    const std::pair<const char *, uint64_t> kGood[] = {{"0", 0},
                                                       {"4096", 4096},
                                                       {"64K", 65536},
                                                       {"64k", 65536},
                                                       {"64KiB", 65536},
                                                       {"64kB", 65536},
                                                       {"1m", 1 << 20},
                                                       {"3G", 3ull << 30},
                                                       {"2T", 2ull << 40},
                                                       {"10B", 10},
                                                       {"8388607T", 8388607ull << 40}};
    for (const auto &[text, bytes] : kGood) {
        uint64_t value = 1;
        EXPECT_TRUE(ParseSize(text, &value)) << text;
        EXPECT_EQ(value, bytes) << text;
    }
    for (const char *bad : {"", "K", "-1", "1.5G", "1 G", "1X", "1KK", "1Ki", "1iB", "8388608T",
                            "99999999999999999999", " 1", "1K "}) {
        uint64_t value = 1;
        EXPECT_FALSE(ParseSize(bad, &value)) << bad;
        EXPECT_EQ(value, 1u) << bad;
    }
}

} // namespace
} // namespace gang
