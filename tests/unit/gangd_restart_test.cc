// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// A gangd that is killed and started again in the middle of a gang: members hand back
// what they have, and everything is as if it had never been away.  And those who hand
// back what is none of theirs, or no segment at all.

#include "gangd_process.h"

#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "board.h"
#include "destination_member.h"
#include "directory.h"
#include "source_member.h"
#include "store.h"
#include "testing.h"
#include "wire.h"

namespace gang::test {
namespace {

// --- members that are libgang's own

Greeting TestGreeting() {
    Greeting greeting;
    greeting.hash_kind = HashKind::kXxh3_128;
    greeting.store.fill(0xaa);
    greeting.seed.fill(0x55);
    greeting.slots = 1024;
    return greeting;
}

std::unique_ptr<SourceMember> NewSource(const Gangd &gangd, const std::string &name,
                                        uint32_t members) {
    SourceMemberConfig config;
    config.socket = gangd.socket;
    config.gang = "web";
    config.member = name;
    config.members = members;
    config.channels = 2;
    config.ram_pages = 4096;
    std::unique_ptr<SourceMember> member;
    EXPECT_TRUE(SourceMember::Create(config, &member).ok());
    uint8_t message[kGreetingSize];
    StoreGreeting(TestGreeting(), message);
    EXPECT_TRUE(member->ReturnMessage(message, sizeof(message)).ok());
    return member;
}

bool StepTo(SourceMember *member, SourceMember::Step wanted) {
    return Soon([&] {
        SourceMember::Step step;
        return member->Advance(10, &step).ok() && step == wanted;
    });
}

// Until all of them send; those that get no directory go there without.
void RunAll(const std::vector<SourceMember *> &members) {
    for (SourceMember *member : members) { // joins, and waits
        SourceMember::Step step;
        EXPECT_TRUE(member->Advance(10, &step).ok());
    }
    for (SourceMember *member : members) {
        EXPECT_TRUE(StepTo(member, SourceMember::Step::kScan));
        member->ScanDone();
    }
    for (SourceMember *member : members) {
        EXPECT_TRUE(StepTo(member, SourceMember::Step::kRun));
    }
}

std::unique_ptr<DestinationMember> NewDestination(const Gangd &gangd, const std::string &name) {
    std::unique_ptr<DestinationMember> member;
    Status status =
        DestinationMember::Create(gangd.socket, "web", name, HashKind::kInvalid, &member);
    EXPECT_TRUE(status.ok()) << status.message();
    return member;
}

// The gang, once it has so many members of that state.
json Wait(const Gangd &gangd, size_t members, const char *state = "alive") {
    json found;
    EXPECT_TRUE(Soon([&] {
        const json status = gangd.Status();
        for (const json &gang : status["gangs"]) {
            found = gang;
            size_t count = 0;
            for (const json &member : gang["members"]) {
                count += member["state"] == state;
            }
            if (count == members) {
                return true;
            }
        }
        return false;
    })) << gangd.Status()
        << gangd.log();
    return found;
}

int64_t Held(int fd) {
    struct stat st = {};
    return fstat(fd, &st) == 0 ? int64_t{st.st_blocks} : -1;
}

TEST(GangdRestart, GangAtTheSourceIsKnownAgain) {
    Gangd gangd;
    auto a = NewSource(gangd, "vm1", 2), b = NewSource(gangd, "vm2", 2);
    RunAll({a.get(), b.get()});
    const json before = Wait(gangd, 2);
    gangd.Restart();
    b->SetProgress(false, 77, 3);
    const json after = Wait(gangd, 2);
    EXPECT_EQ(after["phase"], "migrating");
    EXPECT_EQ(after["members-expected"], 2);
    EXPECT_EQ(after["stores"], before["stores"]);
    for (const json &member : after["members"]) {
        EXPECT_EQ(member["index"], member["member"] == "vm1" ? a->index() : b->index());
        EXPECT_EQ(member["ram-pages"], 4096);
        EXPECT_EQ(member["remaining-pages"], member["member"] == "vm1" ? 0 : 77);
    }

    // It tells the others who has died, and wipes at the end.
    Fd kept;
    *kept.out() = fcntl(b->directory()->fd(), F_DUPFD_CLOEXEC, 0);
    const uint32_t index = a->index();
    a.reset();
    EXPECT_TRUE(Soon([&] { return b->directory()->member_state(index) == MemberState::kDead; }));
    EXPECT_EQ(Wait(gangd, 1, "dead")["members"].size(), 2u);
    EXPECT_GT(Held(kept.get()), 0);
    b->Leave(LeaveResult::kCompleted);
    b.reset();
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty() && Held(kept.get()) == 0; }));
}

TEST(GangdRestart, TheBoardIsKnownAgain) {
    Gangd gangd;
    auto a = NewSource(gangd, "vm1", 2), b = NewSource(gangd, "vm2", 2);
    RunAll({a.get(), b.get()});
    gangd.Restart();
    Wait(gangd, 2);
    ASSERT_TRUE(Soon([&] { return gangd.Status()["gangs"][0].contains("max-bandwidth"); }));
    ASSERT_TRUE(a->SetMaxBandwidth(12345678)); // a word of the board that it has
    EXPECT_EQ(gangd.Status()["gangs"][0]["max-bandwidth"], 12345678);
    // Its records are the members', still.
    a->Leave(LeaveResult::kCompleted);
    b->Leave(LeaveResult::kCompleted);
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty(); })) << gangd.Status();
}

TEST(GangdRestart, GangAtTheDestinationIsKnownAgain) {
    Gangd gangd;
    auto a = NewDestination(gangd, "vm1"), b = NewDestination(gangd, "vm2");
    std::vector<uint8_t> page(kPageSize, 7);
    std::unique_ptr<Store> view;
    GANG_OK(Store::Open(a->store().fd(), &view));
    Hash hash;
    GANG_OK(view->Put(0, page.data(), &hash));
    gangd.Restart();
    const json gang = Wait(gangd, 2);
    EXPECT_EQ(gang["role"], "destination");
    EXPECT_EQ(gang["slots-used"], 1);

    // Who comes now gets the same store, while members are left.
    auto c = NewDestination(gangd, "vm3");
    EXPECT_EQ(c->store().uuid(), a->store().uuid());
    c->Leave(LeaveResult::kFailed);
    a->Leave(LeaveResult::kCompleted);
    Wait(gangd, 1, "completed");
    GANG_OK(view->Get(0, page.data(), &hash));
    b.reset(); // as if it had crashed
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty() && Held(view->fd()) == 0; }));
}

TEST(GangdRestart, ItMayHappenMoreThanOnce) {
    Gangd gangd;
    auto a = NewSource(gangd, "vm1", 1);
    RunAll({a.get()});
    for (int i = 0; i < 3; i++) {
        gangd.Restart();
        Wait(gangd, 1);
    }
}

// Two barriers: the first has not fallen here, and the second falls at once when
// gangd is gone.
TEST(GangdRestart, MembersThatWaitForTheDirectoryJoinAgain) {
    Gangd gangd;
    auto a = NewSource(gangd, "vm1", 2);
    SourceMember::Step step;
    GANG_OK(a->Advance(10, &step));
    Wait(gangd, 1);
    gangd.Kill();
    GANG_OK(a->Advance(10, &step)); // sees it
    EXPECT_EQ(step, SourceMember::Step::kWait);
    gangd.Start();
    auto b = NewSource(gangd, "vm2", 2);
    RunAll({a.get(), b.get()});
    ASSERT_TRUE(a->directory() && b->directory());
    EXPECT_EQ(a->joined(), 2u);
    EXPECT_EQ(Inode(a->directory()->fd()), Inode(b->directory()->fd()));
}

TEST(GangdRestart, WhoComesLateGetsTheDirectoryThatWasHandedBack) {
    Gangd gangd;
    auto a = NewSource(gangd, "vm1", 2), b = NewSource(gangd, "vm2", 2);
    RunAll({a.get(), b.get()});
    b->Leave(LeaveResult::kFailed);
    b.reset();
    gangd.Restart();
    auto late = gangd.Source("web", "vm2", 2); // perhaps before the other is here again
    const json grant = late->Receive();
    ASSERT_EQ(grant.value("op", ""), "directory") << grant;
    EXPECT_EQ(Inode(late->received), Inode(a->directory()->fd()));
    EXPECT_EQ(grant["index"], 2);
}

TEST(GangdRestart, StoreOfAGangThatWasHandedBackIsNotFilledAgain) {
    Gangd gangd;
    auto a = NewSource(gangd, "vm1", 1);
    RunAll({a.get()});
    std::unique_ptr<Directory> directory;
    GANG_OK(Directory::Open(a->directory()->fd(), &directory));
    uint32_t slot;
    ASSERT_TRUE(directory->TakeChunk(0, 0, &slot));
    gangd.Restart();
    Wait(gangd, 1);
    a->Leave(LeaveResult::kCompleted);
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].empty(); }));
    auto next = gangd.Source("web", "vm2", 1);
    ASSERT_EQ(next->Receive().value("op", ""), "directory");
    GANG_OK(Directory::Open(next->received, &directory));
    EXPECT_FALSE(directory->TakeChunk(0, 0, &slot));
}

TEST(GangdRestart, AMemberLeavesThoughGangdIsStoppedOrGone) {
    Gangd gangd;
    auto a = NewSource(gangd, "vm1", 1);
    auto b = NewDestination(gangd, "vm1");
    RunAll({a.get()});
    gangd.process->Signal(SIGSTOP);
    b->Leave(LeaveResult::kCompleted); // returns, without an answer
    gangd.process->Signal(SIGCONT);
    EXPECT_TRUE(Soon([&] { return gangd.Status()["gangs"].size() == 1; }));
    gangd.Kill();
    a->Leave(LeaveResult::kCompleted);
}

// --- members that are not

// What an honest member would say and hand back.
class Rejoin : public testing::Test {
  protected:
    void SetUp() override {
        DirectoryConfig config;
        ASSERT_TRUE(FromHex(std::string(32, 'a'), &config.store_uuid));
        ASSERT_TRUE(FromHex(std::string(32, '5'), &config.seed));
        config.gang_pages = 4096;
        config.store_slots = 1024;
        GANG_OK(Directory::Create(config, directory_fd_.out()));
        GANG_OK(Directory::Open(directory_fd_.get(), &directory_));
        GANG_OK(Store::Create(512, HashKind::kXxh3_128, store_fd_.out()));
        GANG_OK(Store::Open(store_fd_.get(), &store_));
        uint32_t index;
        GANG_OK(directory_->AddMember(static_cast<uint32_t>(getpid()), &index));
        source_ = SourceJoinRequest("web", "vm1", 2);
        source_.update({{"op", "rejoin-source"}, {"index", index}, {"joined", 2}, {"missing", 0}});
        destination_ = DestinationJoinRequest("web", "vm1");
        destination_.update({{"op", "rejoin-destination"}, {"store", ToHex(store_->uuid())}});
    }
    // "rejoined", or the refusal's code.
    std::string Say(const json &request, int fd) {
        clients_.push_back(gangd_.Client());
        RawClient &client = *clients_.back();
        EXPECT_TRUE(client.SendWith(request, fd));
        const json answer = client.Receive();
        why_ = answer.dump();
        return answer.value(answer.contains("code") ? "code" : "op", "");
    }
    static json With(json request, const json &change) {
        request.update(change);
        return request;
    }

    Gangd gangd_{{"--max-ram", "1G", "--max-total-ram", "1G"}};
    Fd directory_fd_, store_fd_;
    std::unique_ptr<Directory> directory_;
    std::unique_ptr<Store> store_;
    json source_, destination_;
    std::vector<std::unique_ptr<RawClient>> clients_;
    std::string why_;
};

TEST_F(Rejoin, WhatAnHonestMemberHandsBackIsTaken) {
    EXPECT_EQ(Say(source_, directory_fd_.get()), "rejoined") << why_;
    EXPECT_EQ(Say(destination_, store_fd_.get()), "rejoined") << why_;
    EXPECT_EQ(gangd_.Status()["gangs"].size(), 2u);
}

// A board that is none, or another's, is not used; the member is one all the same.
TEST_F(Rejoin, OnlyABoardIsTakenForTheBoard) {
    Fd board_fd, other_fd;
    GANG_OK(Board::Create(board_fd.out()));
    GANG_OK(Board::Create(other_fd.out()));
    std::unique_ptr<Board> board, other;
    GANG_OK(Board::Open(board_fd.get(), &board));
    GANG_OK(Board::Open(other_fd.get(), &other));
    uint32_t index, theirs;
    GANG_OK(board->AddMember(static_cast<uint32_t>(getpid()), &index));
    GANG_OK(other->AddMember(static_cast<uint32_t>(getpid()) + 1, &theirs));
    ASSERT_EQ(Say(source_, directory_fd_.get()), "rejoined") << why_;
    RawClient &member = *clients_.back();
    const json hand_back = {{"op", "rejoin-board"}, {"index", index}};
    auto used = [&](const json &request, int fd) {
        EXPECT_TRUE(fd < 0 ? member.Send(request) : member.SendWith(request, fd));
        EXPECT_EQ(member.Receive().value("op", ""), "rejoined");
        return gangd_.Status()["gangs"][0].contains("turn");
    };
    EXPECT_FALSE(used(hand_back, -1));
    EXPECT_FALSE(used(hand_back, directory_fd_.get()));
    EXPECT_FALSE(used(hand_back, store_fd_.get()));
    EXPECT_FALSE(used(hand_back, other_fd.get())); // that record is another process's
    EXPECT_FALSE(used(With(hand_back, {{"index", index + 1}}), board_fd.get()));
    EXPECT_FALSE(used(With(hand_back, {{"index", 128}}), board_fd.get()));
    EXPECT_TRUE(used(hand_back, board_fd.get()));
    // Who is no member has none.
    clients_.push_back(gangd_.Client());
    EXPECT_TRUE(clients_.back()->SendWith(hand_back, board_fd.get()));
    EXPECT_EQ(clients_.back()->Receive().value("op", ""), "rejoined");
    EXPECT_EQ(gangd_.Status()["gangs"][0]["members"].size(), 1u);
}

// It waits for the directory, which the gang has: so it has a board, too, and a new one
// would be a second budget.
TEST_F(Rejoin, WhoCameBeforeTheGangWasBackMakesNoSecondBoard) {
    Fd board_fd;
    GANG_OK(Board::Create(board_fd.out()));
    std::unique_ptr<Board> board;
    GANG_OK(Board::Open(board_fd.get(), &board));
    uint32_t index;
    GANG_OK(board->AddMember(static_cast<uint32_t>(getpid()), &index));
    auto late = gangd_.Client();
    late->Send(With(SourceJoinRequest("web", "vm2", 2), {{"board", true}}));
    ASSERT_TRUE(Soon([&] { return gangd_.Status()["gangs"].size() == 1; }));
    ASSERT_EQ(Say(source_, directory_fd_.get()), "rejoined") << why_;
    EXPECT_EQ(late->Receive().value("op", ""), "directory");
    EXPECT_TRUE(clients_.back()->SendWith({{"op", "rejoin-board"}, {"index", index}}, board_fd.get()));
    EXPECT_EQ(clients_.back()->Receive().value("op", ""), "rejoined");
    board->header().budget = 12345678;
    EXPECT_EQ(gangd_.Status()["gangs"][0].value("max-bandwidth", 0), 12345678);
}

TEST_F(Rejoin, FieldsAreCheckedAsThoseOfAJoin) {
    const std::vector<json> bad = {{{"gang", "a/b"}},      {{"member", ""}},
                                   {{"members", 0}},       {{"members", 129}},
                                   {{"page-size", 65536}}, {{"store", "zz"}},
                                   {{"seed", 5}},          {{"hash", "md5"}},
                                   {{"slots", -1}},        {{"ram-pages", 0}},
                                   {{"channels", 65}},     {{"index", 128}},
                                   {{"index", -1}},        {{"joined", 129}},
                                   {{"missing", "none"}},  {{"ram-pages", UINT64_MAX}},
                                   {{"index", nullptr}}};
    for (const json &change : bad) {
        EXPECT_NE(Say(With(source_, change), directory_fd_.get()), "rejoined") << change;
    }
    for (const json &change : std::vector<json>{{{"gang", "a/b"}},
                                                {{"member", 1}},
                                                {{"page-size", 0}},
                                                {{"store", std::string(32, 'b')}},
                                                {{"store", nullptr}}}) {
        EXPECT_NE(Say(With(destination_, change), store_fd_.get()), "rejoined") << change;
    }
    EXPECT_TRUE(gangd_.Status()["gangs"].empty());
}

TEST_F(Rejoin, WhatIsNoSegmentIsRefused) {
    auto refused = [&](int fd, const char *what) {
        EXPECT_EQ(Say(source_, fd), "invalid") << what;
        EXPECT_EQ(Say(destination_, fd), "invalid") << what;
    };
    auto memory = [](int seals, uint64_t size) {
        int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        EXPECT_EQ(ftruncate(fd, static_cast<off_t>(size)), 0);
        EXPECT_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
        return fd;
    };
    constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    struct Case {
        const char *what;
        int fd;
    };
    int pipe_fds[2];
    ASSERT_EQ(pipe(pipe_fds), 0);
    const Case cases[] = {
        {"nothing", -1},
        {"a pipe", pipe_fds[0]},
        {"a file", open("/proc/self/status", O_RDONLY | O_CLOEXEC)},
        {"a directory", open("/", O_RDONLY | O_CLOEXEC)},
        {"a socket", socket(AF_UNIX, SOCK_STREAM, 0)},
        {"memory that can shrink", memory(F_SEAL_GROW | F_SEAL_SEAL, 1 << 20)},
        {"memory whose seals can change", memory(F_SEAL_SHRINK | F_SEAL_GROW, 1 << 20)},
        {"memory that cannot be wiped", memory(kSeals | F_SEAL_WRITE, 1 << 20)},
        {"empty memory", memory(kSeals, 0)},
        {"zeros", memory(kSeals, 1 << 20)},
        {"more than there are addresses", memory(kSeals, uint64_t{1} << 62)}};
    for (const Case &c : cases) {
        refused(c.fd, c.what);
        close(c.fd);
    }
    close(pipe_fds[1]);
    EXPECT_EQ(Say(source_, store_fd_.get()), "invalid"); // a store is no directory
    EXPECT_EQ(Say(destination_, directory_fd_.get()), "invalid");
    for (int fd : {directory_fd_.get(), store_fd_.get()}) {
        int reader = open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC);
        refused(reader, "a segment that is open for reading");
        close(reader);
    }
    EXPECT_TRUE(gangd_.Status()["gangs"].empty());
    EXPECT_EQ(gangd_.process->Wait(0), -1) << gangd_.log();
}

// Whose seals could be changed, gangd could be kept from wiping.
TEST_F(Rejoin, TheRightBytesWithOtherSealsAreRefused) {
    constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    for (int seals : {F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_GROW | F_SEAL_SEAL, kSeals}) {
        Fd copy;
        *copy.out() = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        struct stat st = {};
        ASSERT_EQ(fstat(directory_fd_.get(), &st), 0);
        off_t at = 0;
        while (at < st.st_size) {
            ASSERT_GT(sendfile(copy.get(), directory_fd_.get(), &at,
                               static_cast<size_t>(st.st_size - at)),
                      0);
        }
        ASSERT_EQ(fcntl(copy.get(), F_ADD_SEALS, seals), 0);
        EXPECT_EQ(Say(source_, copy.get()), seals == kSeals ? "rejoined" : "invalid") << why_;
    }
}

TEST_F(Rejoin, HeadersThatLieAreRefused) {
    auto *directory = static_cast<DirectoryHeader *>(
        mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, directory_fd_.get(), 0));
    auto *store = static_cast<StoreHeader *>(
        mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, store_fd_.get(), 0));
    auto lies = [&](auto *word, auto value, const json &request, int fd) {
        auto before = *word;
        *word = value;
        EXPECT_EQ(Say(request, fd), "invalid") << why_;
        *word = before;
    };
    lies(&directory->segment.magic, uint64_t{1}, source_, directory_fd_.get());
    lies(&directory->segment.layout_signature, uint64_t{1}, source_, directory_fd_.get());
    lies(&directory->segment.segment_size, uint64_t{1} << 40, source_, directory_fd_.get());
    lies(&directory->buckets, UINT64_MAX, source_, directory_fd_.get());
    lies(&directory->members_off, uint64_t{1} << 50, source_, directory_fd_.get());
    lies(&directory->chunks, uint64_t{1} << 30, source_, directory_fd_.get());
    lies(&store->segment.layout_signature, uint64_t{1}, destination_, store_fd_.get());
    lies(&store->slots, uint64_t{1} << 31, destination_, store_fd_.get());
    lies(&store->data_off, uint64_t{8}, destination_, store_fd_.get());
    munmap(directory, kPageSize);
    munmap(store, kPageSize);
    EXPECT_EQ(Say(source_, directory_fd_.get()), "rejoined") << why_; // the truth again
}

TEST_F(Rejoin, DirectoryOfAnotherStoreIsRefused) {
    EXPECT_EQ(Say(With(source_, {{"store", std::string(32, 'b')}}), directory_fd_.get()),
              "invalid");
    EXPECT_EQ(Say(With(source_, {{"seed", std::string(32, 'b')}}), directory_fd_.get()), "invalid");
    EXPECT_EQ(Say(With(source_, {{"hash", "sha256"}}), directory_fd_.get()), "invalid");
    EXPECT_EQ(Say(With(source_, {{"slots", 64}}), directory_fd_.get()), "limit");
}

TEST_F(Rejoin, LargerSegmentsThanItWouldMakeAreRefused) {
    Fd store, directory;
    GANG_OK(Store::Create(4096, HashKind::kXxh3_128, store.out())); // store-size is 4 MiB
    std::unique_ptr<Store> opened;
    GANG_OK(Store::Open(store.get(), &opened));
    EXPECT_EQ(Say(With(destination_, {{"store", ToHex(opened->uuid())}}), store.get()), "limit");
    DirectoryConfig config;
    ASSERT_TRUE(FromHex(std::string(32, 'a'), &config.store_uuid));
    ASSERT_TRUE(FromHex(std::string(32, '5'), &config.seed));
    config.gang_pages = uint64_t{1} << 20; // 4 GiB
    config.store_slots = 1024;
    GANG_OK(Directory::Create(config, directory.out()));
    EXPECT_EQ(Say(source_, directory.get()), "limit") << why_;
}

TEST_F(Rejoin, RecordOfNobodyOrOfAnotherIsRefused) {
    uint32_t other, left;
    GANG_OK(directory_->AddMember(1, &other));
    GANG_OK(directory_->AddMember(static_cast<uint32_t>(getpid()), &left));
    directory_->SetMemberState(left, MemberState::kLeft);
    for (uint32_t index : {other, left, left + 1, kMaxMembers - 1}) {
        EXPECT_EQ(Say(With(source_, {{"index", index}}), directory_fd_.get()), "invalid") << index;
    }
    EXPECT_TRUE(gangd_.Status()["gangs"].empty());
    EXPECT_EQ(Say(source_, directory_fd_.get()), "rejoined") << why_;
    // The same once more, under another name
    EXPECT_EQ(Say(With(source_, {{"member", "vm9"}}), directory_fd_.get()), "exists");
    EXPECT_EQ(Say(source_, directory_fd_.get()), "exists");
}

TEST_F(Rejoin, TheFirstDirectoryOfAStoreIsTheOnlyOne) {
    Fd other;
    DirectoryConfig config;
    ASSERT_TRUE(FromHex(std::string(32, 'a'), &config.store_uuid));
    ASSERT_TRUE(FromHex(std::string(32, '5'), &config.seed));
    config.gang_pages = 4096;
    config.store_slots = 1024;
    GANG_OK(Directory::Create(config, other.out()));
    std::unique_ptr<Directory> directory;
    GANG_OK(Directory::Open(other.get(), &directory));
    uint32_t index;
    GANG_OK(directory->AddMember(static_cast<uint32_t>(getpid()), &index));
    EXPECT_EQ(Say(source_, directory_fd_.get()), "rejoined") << why_;
    EXPECT_EQ(Say(With(source_, {{"member", "vm2"}}), other.get()), "exists");
}

// Else the end of the one would wipe what the other needs.
TEST_F(Rejoin, SegmentOfAnotherGangIsRefused) {
    EXPECT_EQ(Say(source_, directory_fd_.get()), "rejoined") << why_;
    EXPECT_EQ(Say(destination_, store_fd_.get()), "rejoined") << why_;
    EXPECT_EQ(Say(With(source_, {{"gang", "db"}}), directory_fd_.get()), "invalid");
    EXPECT_EQ(Say(With(destination_, {{"gang", "db"}}), store_fd_.get()), "invalid");
}

// It began before the members of the gang were here again: they keep their own.
TEST_F(Rejoin, StoresOfOneIdLiveSideBySide) {
    auto early = gangd_.Client();
    early->Send(DestinationJoinRequest("web", "vm2"));
    ASSERT_EQ(early->Receive().value("op", ""), "store");
    EXPECT_EQ(Say(destination_, store_fd_.get()), "rejoined") << why_;
    auto late = gangd_.Client();
    late->Send(DestinationJoinRequest("web", "vm3"));
    ASSERT_EQ(late->Receive().value("op", ""), "store");
    EXPECT_EQ(Inode(late->received), Inode(early->received));
    EXPECT_EQ(gangd_.Status()["gangs"].size(), 2u);
}

TEST_F(Rejoin, AnotherUsersGangIsNotEntered) {
    NEEDS_ROOT();
    Gangd gangd({"--allow-user", "nobody"});
    auto owner = gangd.Client();
    owner->SendWith(source_, directory_fd_.get());
    ASSERT_EQ(owner->Receive().value("op", ""), "rejoined");
    EXPECT_EQ(AsNobody([&] {
                  RawClient client(gangd.socket);
                  return client.Hello() &&
                         client.SendWith(With(source_, {{"member", "vm2"}, {"pid", getpid()}}),
                                         directory_fd_.get()) &&
                         client.Refused() == "denied";
              }),
              0);
}

TEST_F(Rejoin, NoDescriptorIsLeftBehind) {
    const std::string fds = "/proc/" + std::to_string(gangd_.process->pid()) + "/fd";
    auto count = [&] { return std::distance(std::filesystem::directory_iterator(fds), {}); };
    (void)gangd_.Status(); // it has opened what it opens as it begins
    const auto before = count();
    for (int i = 0; i < 50; i++) {
        int pipe_fds[2];
        ASSERT_EQ(pipe(pipe_fds), 0);
        for (int fd : {pipe_fds[0], store_fd_.get()}) {
            RawClient client(gangd_.socket);
            ASSERT_TRUE(client.Hello());
            client.SendWith(source_, fd);
            EXPECT_EQ(client.Refused(), "invalid");
        }
        close(pipe_fds[0]);
        close(pipe_fds[1]);
    }
    // One that goes with what only looks like such a request
    RawClient client(gangd_.socket);
    ASSERT_TRUE(client.Hello());
    client.SendWith({{"op", "status"}, {"x", "\"rejoin-"}}, store_fd_.get());
    EXPECT_EQ(client.Receive().value("op", ""), "status");
    client.Close();
    EXPECT_TRUE(Soon([&] { return count() <= before; })) << count() << " of " << before;
}

} // namespace
} // namespace gang::test
