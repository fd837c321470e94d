// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// What is left of a gang's pages when it has ended: nothing, whoever kept what
// was shared.

#include "gangd_process.h"

#include <sys/mman.h>

#include <algorithm>

#include "directory.h"
#include "store.h"
#include "testing.h"

namespace gang::test {
namespace {

// A member that keeps its descriptor and its mapping, whatever happens.
class Keeper {
  public:
    explicit Keeper(int fd) : fd_(fd) {
        struct stat st = {};
        fstat(fd, &st);
        size_ = static_cast<size_t>(st.st_size);
        data_ = mmap(nullptr, size_, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
        EXPECT_NE(data_, MAP_FAILED);
    }
    ~Keeper() {
        munmap(data_, size_);
        close(fd_);
    }
    Keeper(const Keeper &) = delete;
    Keeper &operator=(const Keeper &) = delete;

    // Whether there is anything but zeros in the segment, through the mapping.
    bool SeesSomething() const {
        auto *bytes = static_cast<const uint8_t *>(data_);
        return std::any_of(bytes, bytes + size_, [](uint8_t byte) { return byte != 0; });
    }
    // Memory that the segment holds, before anybody looks at it.
    int64_t Held() const {
        struct stat st = {};
        return fstat(fd_, &st) == 0 ? int64_t{st.st_blocks} * 512 : -1;
    }

  private:
    int fd_;
    size_t size_ = 0;
    void *data_ = nullptr;
};

std::vector<uint8_t> Page(uint8_t fill) {
    std::vector<uint8_t> page(kPageSize, fill);
    page[0] = 0x5a;
    return page;
}

std::unique_ptr<RawClient> Destination(const Gangd &gangd, const char *member) {
    auto client = gangd.Client();
    client->Send(DestinationJoinRequest("web", member));
    EXPECT_EQ(client->Receive()["op"], "store");
    return client;
}

TEST(GangdWipe, MemberThatKeepsTheStoreFindsNothingInItOnceTheGangHasEnded) {
    // More than one slice of the wiper, with pages at its very ends.
    Gangd gangd({"--store-size", "80M"});
    auto first = Destination(gangd, "vm1"), second = Destination(gangd, "vm2");
    std::unique_ptr<Store> store;
    GANG_OK(Store::Open(first->received, &store));
    Keeper keeper(first->TakeFd());
    const auto secret = Page(7), other = Page(9), last = Page(11);
    Hash hash;
    GANG_OK(store->Put(0, secret.data(), &hash));
    GANG_OK(store->Put(1, other.data(), &hash));
    GANG_OK(store->Put(static_cast<uint32_t>(store->slots()) - 1, last.data(), &hash));

    first->Send({{"op", "leave"}, {"result", "completed"}});
    EXPECT_TRUE(
        Soon([&] { return gangd.Status()["gangs"][0]["members"][0]["state"] == "completed"; }));
    std::vector<uint8_t> page(kPageSize);
    GANG_OK(store->Get(0, page.data(), &hash)); // the gang goes on, and so does its store
    EXPECT_EQ(page, secret);

    second->Close(); // as if it had crashed
    EXPECT_TRUE(Soon([&] { return keeper.Held() == 0; })) << keeper.Held();
    EXPECT_FALSE(keeper.SeesSomething());
    EXPECT_FALSE(store->Get(0, page.data(), &hash).ok());
}

TEST(GangdWipe, MemberThatKeepsTheDirectoryFindsNeitherHashesNorCopiesOfPages) {
    Gangd gangd;
    auto member = gangd.Source("web", "vm1", 1);
    json grant = member->Receive();
    ASSERT_EQ(grant["op"], "directory");
    std::unique_ptr<Directory> directory;
    GANG_OK(Directory::Open(member->received, &directory));
    Keeper keeper(member->TakeFd());
    const auto secret = Page(7);
    uint32_t slot;
    ASSERT_TRUE(directory->TakeChunk(grant["index"], 0, &slot));
    ASSERT_TRUE(directory->Mirror(slot, secret.data(), 1));
    Hash hash = directory->hasher()(secret.data(), secret.size());
    EXPECT_FALSE(directory->Count(hash));
    EXPECT_GT(keeper.Held(), 0);

    member->Close();
    EXPECT_TRUE(Soon([&] { return keeper.Held() == 0; })) << keeper.Held();
    EXPECT_FALSE(keeper.SeesSomething());
    EXPECT_FALSE(directory->Count(hash)); // not known any more
}

// A gang that is wiped does not hold up those that live.
TEST(GangdWipe, OtherGangsKeepTheirsWhileOneIsWiped) {
    Gangd gangd({"--store-size", "16M"});
    auto ends = Destination(gangd, "vm1");
    auto lives = gangd.Client();
    lives->Send(DestinationJoinRequest("db", "vm1"));
    ASSERT_EQ(lives->Receive()["op"], "store");
    std::unique_ptr<Store> ended, living;
    GANG_OK(Store::Open(ends->received, &ended));
    GANG_OK(Store::Open(lives->received, &living));
    Keeper keeper(ends->TakeFd());
    const auto secret = Page(7);
    Hash hash;
    GANG_OK(ended->Put(0, secret.data(), &hash));
    GANG_OK(living->Put(0, secret.data(), &hash));
    ends->Close();
    EXPECT_TRUE(Soon([&] { return keeper.Held() == 0; }));
    std::vector<uint8_t> page(kPageSize);
    GANG_OK(living->Get(0, page.data(), &hash));
    EXPECT_EQ(page, secret);
}

// Invariant 4: members go on with what they have.  The last of them that lets go
// frees it, and the kernel clears pages before anybody gets them.
TEST(GangdWipe, GangdThatEndsLeavesLivingMembersTheirContent) {
    for (int signal : {SIGTERM, SIGKILL}) {
        Gangd gangd;
        auto member = Destination(gangd, "vm1");
        std::unique_ptr<Store> store;
        GANG_OK(Store::Open(member->received, &store));
        Hash hash;
        GANG_OK(store->Put(0, Page(7).data(), &hash));
        gangd.process->Signal(signal);
        EXPECT_GE(gangd.process->Wait(), 0);
        std::vector<uint8_t> page(kPageSize);
        GANG_OK(store->Get(0, page.data(), &hash));
        EXPECT_EQ(page, Page(7));
    }
}

} // namespace
} // namespace gang::test
