// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The whole way of a member through the C API, as QEMU calls it, with a real
// gangd at each end: greeting, join, scan, barrier, packets, acknowledgements,
// deferred pages; and what happens when a part of that is missing.

#include <gang/gang.h>

#include <array>

#include "gangd_process.h"
#include "test_vm.h"

namespace gang {
namespace {

using namespace test;

// The error of the last call, freed with the test.
class Error {
  public:
    ~Error() { free(text_); }
    char **out() {
        free(text_);
        text_ = nullptr;
        return &text_;
    }
    std::string text() const { return text_ ? text_ : ""; }

  private:
    char *text_ = nullptr;
};

struct Hosts {
    Gangd source{{"--barrier-timeout", "30"}}, destination;
};

// Both ends of one VM.
class Vm {
  public:
    Vm(const Hosts &hosts, const std::string &name, uint32_t members, bool compress = false,
       uint32_t channels = 2, GangHashKind hash = GANG_HASH_BY_ANY)
        : from(kPages), to(kPages) {
        GangSourceConfig config = {};
        config.socket = hosts.source.socket.c_str();
        config.gang = "web";
        config.member = name.c_str();
        config.members = members;
        config.channels = channels;
        config.ram_pages = kPages;
        config.compression = compress ? GANG_COMPRESS_ZSTD : GANG_COMPRESS_NONE;
        config.cache_bytes = 64 * kPageSize;
        config.level = 1;
        source = gang_source_new(&config, error.out());
        EXPECT_NE(source, nullptr) << error.text();
        destination = gang_destination_new(hosts.destination.socket.c_str(), "web", name.c_str(), hash,
                                           error.out());
        EXPECT_NE(destination, nullptr) << error.text();
    }
    ~Vm() { Leave(GANG_COMPLETED); }
    void Leave(GangResult result) {
        if (source) {
            gang_source_leave(source, result);
        }
        if (destination) {
            gang_destination_leave(destination, result);
        }
        gang_source_free(source);
        gang_destination_free(destination);
        source = nullptr;
        destination = nullptr;
    }

    void Fill(const std::vector<uint64_t> &contents) {
        for (size_t i = 0; i < contents.size(); i++) {
            FillPage(from.page(i), contents[i]);
        }
    }
    bool Greet() {
        uint8_t message[GANG_MAX_RETURN_MESSAGE];
        size_t size = gang_destination_greeting(destination, message);
        return gang_source_return_message(source, message, size, error.out());
    }
    // Steps until `wanted` or an error.
    GangStep StepTo(GangStep wanted) {
        GangStep step = GANG_STEP_WAIT;
        Soon([&] {
            step = gang_source_step(source, 20, error.out());
            return step == wanted || step == GANG_STEP_ERROR;
        });
        return step;
    }
    void Scan() {
        gang_source_scan(source, from.data(), from.offsets().data(), kPages, IsZero);
        gang_source_scan_done(source);
    }
    // One packet; empty when all pages were deferred.
    Bytes Encode(const std::vector<size_t> &pages, uint32_t channel = 0) {
        std::vector<uint64_t> offsets;
        for (size_t page : pages) {
            offsets.push_back(page * kPageSize);
        }
        GangPacket packet;
        EXPECT_TRUE(gang_source_encode(source, channel, "pc.ram", this, from.data(), offsets.data(),
                                       offsets.size(), IsZero, &packet, error.out()))
            << error.text();
        Bytes bytes;
        if (packet.header) {
            bytes.assign(packet.header, packet.header + packet.header_size);
            for (size_t i = 0; i < packet.payload_count; i++) {
                auto *p = static_cast<const uint8_t *>(packet.payload[i].iov_base);
                bytes.insert(bytes.end(), p, p + packet.payload[i].iov_len);
            }
        }
        return bytes;
    }
    // Applies a packet; the acknowledgement is left in `ack`.
    bool Deliver(const Bytes &bytes, uint32_t channel = 0) {
        size_t metadata_size, payload_size, pages;
        bool raw;
        if (!gang_destination_header(destination, channel, bytes.data(), &metadata_size,
                                     &payload_size, &pages, &raw, error.out())) {
            return false;
        }
        const uint8_t *metadata = bytes.data() + GANG_PACKET_HEADER_SIZE;
        const uint8_t *payload = metadata + metadata_size;
        EXPECT_EQ(bytes.size(), GANG_PACKET_HEADER_SIZE + metadata_size + payload_size);
        const char *id =
            gang_destination_metadata(destination, channel, metadata, metadata_size, error.out());
        if (!id ||
            !gang_destination_bind(destination, channel, to.data(), to.bytes(), -1, 0, error.out())) {
            return false;
        }
        EXPECT_STREQ(id, "pc.ram");
        for (size_t i = 0; i < pages; i++) {
            uint64_t offset;
            if (gang_destination_page(destination, channel, i, &offset)) {
                memset(to.data() + offset, 0, kPageSize);
            }
        }
        if (raw) {
            size_t parts;
            const iovec *iov = gang_destination_raw_iov(destination, channel, &parts);
            for (size_t i = 0; i < parts; i++) {
                memcpy(iov[i].iov_base, payload, iov[i].iov_len);
                payload += iov[i].iov_len;
            }
        } else if (!gang_destination_inflate(destination, channel, payload, error.out())) {
            return false;
        }
        ack.resize(GANG_MAX_RETURN_MESSAGE);
        int size = gang_destination_finish(destination, channel, ack.data(), error.out());
        ack.resize(size > 0 ? static_cast<size_t>(size) : 0);
        return size > 0;
    }
    bool Ack() { return gang_source_return_message(source, ack.data(), ack.size(), error.out()); }
    bool Send(const Bytes &bytes, uint32_t channel = 0) { return Deliver(bytes, channel) && Ack(); }
    bool AckNumber(uint32_t channel, uint32_t number) {
        ack.resize(kAckSize);
        StoreAck(static_cast<uint16_t>(channel), number, ack.data());
        return Ack();
    }
    // Page numbers, in the order they came back.
    std::vector<size_t> Take(bool all) {
        std::vector<size_t> pages;
        taken_block = nullptr;
        auto take = [](void *opaque, void *block, uint64_t offset) {
            static_cast<Vm *>(block)->taken_block = block;
            static_cast<std::vector<size_t> *>(opaque)->push_back(offset / kPageSize);
        };
        const uint64_t taken = gang_source_take_deferred(source, all, take, &pages);
        EXPECT_EQ(taken, pages.size());
        return pages;
    }
    GangStats Stats() const {
        GangStats stats;
        gang_source_stats(source, &stats);
        return stats;
    }
    bool Identical() const { return memcmp(from.data(), to.data(), from.bytes()) == 0; }

    static constexpr size_t kPages = 8;
    GuestMemory from, to;
    GangSource *source = nullptr;
    GangDestination *destination = nullptr;
    Bytes ack;
    void *taken_block = nullptr;
    Error error;
};

const std::vector<size_t> kAll = {0, 1, 2, 3, 4, 5, 6, 7};

class Member : public testing::Test {
  protected:
    // Two members of one gang, with the same contents, ready to send.
    void Start(bool compress = false, GangHashKind hash = GANG_HASH_BY_ANY) {
        a_ = std::make_unique<Vm>(hosts_, "vm1", 2, compress, 2, hash);
        b_ = std::make_unique<Vm>(hosts_, "vm2", 2, compress);
        for (Vm *vm : {a_.get(), b_.get()}) {
            vm->Fill({1, 2, 3, 4, 5, 6, 7, 0});
            ASSERT_TRUE(vm->Greet()) << vm->error.text();
            ASSERT_EQ(gang_source_step(vm->source, 100, vm->error.out()), GANG_STEP_WAIT);
        }
        for (Vm *vm : {a_.get(), b_.get()}) {
            ASSERT_EQ(vm->StepTo(GANG_STEP_SCAN), GANG_STEP_SCAN) << vm->error.text();
            vm->Scan();
        }
        for (Vm *vm : {a_.get(), b_.get()}) {
            ASSERT_EQ(vm->StepTo(GANG_STEP_RUN), GANG_STEP_RUN) << vm->error.text();
        }
    }
    Hosts hosts_;
    std::unique_ptr<Vm> a_, b_;
};

// The first attempt fails when one member has sent half; what its memory had got is
// saved.  The next one refers to all of that, and asks once.
TEST_F(Member, RetryRefersToWhatTheAttemptBeforeHasSent) {
    Gangd keeps({"--store-keep", "300"});
    std::swap(keeps.socket, hosts_.destination.socket);
    auto one = [this](const char *name) { return std::make_unique<Vm>(hosts_, name, 1); };
    a_ = one("vm1");
    a_->Fill({1, 1, 2, 3, 4, 5, 6, 0});
    ASSERT_TRUE(a_->Greet());
    EXPECT_FALSE(gang_source_wants_inventory(a_->source));
    ASSERT_EQ(a_->StepTo(GANG_STEP_SCAN), GANG_STEP_SCAN);
    a_->Scan();
    ASSERT_EQ(a_->StepTo(GANG_STEP_RUN), GANG_STEP_RUN);
    EXPECT_FALSE(gang_source_wants_inventory(a_->source));
    ASSERT_TRUE(a_->Send(a_->Encode({0, 2, 3, 7}))); // 1 is published, 2 and 3 are literals
    const uint64_t got[] = {0, 2 * kPageSize, 3 * kPageSize, 7 * kPageSize};
    EXPECT_TRUE(gang_destination_save(a_->destination, a_->to.data(), got, 4, IsZero));
    a_->Leave(GANG_FAILED);
    ASSERT_TRUE(Soon([&] { return hosts_.source.Status()["gangs"].empty(); }));

    a_ = one("vm1");
    a_->Fill({1, 1, 2, 3, 4, 5, 6, 0});
    ASSERT_TRUE(a_->Greet());
    ASSERT_EQ(a_->StepTo(GANG_STEP_SCAN), GANG_STEP_SCAN) << a_->error.text();
    uint8_t message[GANG_MAX_RETURN_MESSAGE];
    size_t size = StoreInventory(0, std::array{Hash{1, 1}}.data(), 1, message);
    EXPECT_FALSE(gang_source_return_message(a_->source, message, size, a_->error.out()));
    EXPECT_TRUE(gang_source_wants_inventory(a_->source));
    EXPECT_FALSE(gang_source_wants_inventory(a_->source));
    // Whoever writes that nobody has asked does not make it ask again.
    int rewritten = 0;
    for (int fd = 3; fd < 256; fd++) {
        std::unique_ptr<Directory> directory;
        if (Directory::Open(fd, &directory).ok()) {
            const_cast<DirectoryHeader &>(directory->header()).inventory_asker.store(0);
            rewritten++;
        }
    }
    EXPECT_GT(rewritten, 0);
    EXPECT_FALSE(gang_source_wants_inventory(a_->source));
    for (int fd = 3; fd < 256; fd++) { // as it was
        std::unique_ptr<Directory> directory;
        if (Directory::Open(fd, &directory).ok()) {
            const_cast<DirectoryHeader &>(directory->header()).inventory_asker.store(1);
        }
    }
    a_->Scan();
    // Nobody sends before it is told what there is.
    for (int i = 0; i < 5; i++) {
        ASSERT_EQ(gang_source_step(a_->source, 5, a_->error.out()), GANG_STEP_WAIT);
    }
    while ((size = gang_destination_inventory(a_->destination, message)) != 0) {
        ASSERT_TRUE(gang_source_return_message(a_->source, message, size, a_->error.out()))
            << a_->error.text();
    }
    size = StoreInventory(0, std::array{Hash{1, 1}}.data(), 1, message);
    EXPECT_FALSE(gang_source_return_message(a_->source, message, size, a_->error.out()));
    ASSERT_EQ(a_->StepTo(GANG_STEP_RUN), GANG_STEP_RUN) << a_->error.text();
    ASSERT_TRUE(a_->Send(a_->Encode(kAll))) << a_->error.text();
    EXPECT_TRUE(a_->Identical());
    EXPECT_EQ(a_->Stats().referenced_pages, 4u); // pages 0 to 3
    EXPECT_EQ(a_->Stats().literal_pages, 3u);
    a_.reset();
    std::swap(keeps.socket, hosts_.destination.socket);
}

TEST_F(Member, Inv5_InventoryThatIsNotSoundEndsTheMigration) {
    Gangd keeps({"--store-keep", "300"});
    std::swap(keeps.socket, hosts_.destination.socket);
    for (int wrong = 0; wrong < 3; wrong++) {
        a_ = std::make_unique<Vm>(hosts_, "vm1", 1);
        a_->Fill({1, 1, 2, 3, 4, 5, 6, 0});
        const uint64_t got[] = {0};
        FillPage(a_->to.page(0), 1);
        EXPECT_TRUE(gang_destination_save(a_->destination, a_->to.data(), got, 1, IsZero));
        ASSERT_TRUE(a_->Greet());
        ASSERT_EQ(a_->StepTo(GANG_STEP_SCAN), GANG_STEP_SCAN) << a_->error.text();
        const bool asks = gang_source_wants_inventory(a_->source);
        EXPECT_EQ(asks, wrong != 0); // the first attempt has left it something
        uint8_t message[GANG_MAX_RETURN_MESSAGE];
        const Hash hash = {5, 5};
        size_t size = kInventoryEndSize;
        if (wrong == 1) {
            size = StoreInventory(UINT32_MAX, &hash, 1, message); // no such slot
        } else {
            StoreInventoryEnd(64, 1, message); // one was told, it says
        }
        EXPECT_FALSE(gang_source_return_message(a_->source, message, size, a_->error.out()));
        a_->Leave(GANG_FAILED);
        ASSERT_TRUE(Soon([&] { return hosts_.source.Status()["gangs"].empty(); }));
    }
    std::swap(keeps.socket, hosts_.destination.socket);
}

TEST_F(Member, GoesFromGreetingToTheLastPage) {
    for (bool compress : {false, true}) {
        Start(compress);
        EXPECT_STREQ(a_->Stats().phase, "migrating");
        EXPECT_EQ(a_->Stats().scanned_pages, 7u);
        EXPECT_EQ(a_->Stats().scan_zero_pages, 1u);
        EXPECT_EQ(b_->Stats().scan_duplicate_pages, 7u);
        EXPECT_EQ(b_->Stats().joined, 2u);

        ASSERT_TRUE(a_->Send(a_->Encode(kAll))) << a_->error.text();
        ASSERT_TRUE(b_->Send(b_->Encode(kAll))) << b_->error.text();

        EXPECT_TRUE(a_->Identical());
        EXPECT_TRUE(b_->Identical());
        EXPECT_EQ(a_->Stats().published_pages, 7u);
        EXPECT_EQ(b_->Stats().referenced_pages, 7u);
        EXPECT_EQ(b_->Stats().zero_pages, 1u);
        EXPECT_EQ(gang_source_in_flight(b_->source), 0u);
        a_.reset(); // two gangs one after the other, under one name
        b_.reset();
        ASSERT_TRUE(Soon([&] { return hosts_.source.Status()["gangs"].empty(); }));
    }
}

// The first one asks for it, the second one and the sources learn it.
TEST_F(Member, OfASha256GangGetsToTheLastPage) {
    for (bool compress : {false, true}) {
        Start(compress, GANG_HASH_BY_SHA256);
        EXPECT_STREQ(a_->Stats().hash, "sha256");
        EXPECT_STREQ(b_->Stats().hash, "sha256");
        EXPECT_EQ(b_->Stats().scan_duplicate_pages, 7u);
        ASSERT_TRUE(a_->Send(a_->Encode(kAll))) << a_->error.text();
        ASSERT_TRUE(b_->Send(b_->Encode(kAll))) << b_->error.text();
        EXPECT_TRUE(a_->Identical());
        EXPECT_TRUE(b_->Identical());
        EXPECT_EQ(a_->Stats().published_pages, 7u);
        EXPECT_EQ(b_->Stats().referenced_pages, 7u);
        a_.reset();
        b_.reset();
        ASSERT_TRUE(Soon([&] { return hosts_.source.Status()["gangs"].empty(); }));
    }
}

// What the source was told to ask for is not given up for what a destination has.
TEST_F(Member, ASourceRefusesAnotherHashThanItAskedFor) {
    Vm vm(hosts_, "vm1", 1);
    GangSourceConfig config = {};
    config.socket = hosts_.source.socket.c_str();
    config.gang = "web";
    config.member = "vm2";
    config.members = config.channels = 1;
    config.ram_pages = Vm::kPages;
    config.hash = GANG_HASH_BY_SHA256;
    Error error;
    GangSource *source = gang_source_new(&config, error.out());
    ASSERT_NE(source, nullptr) << error.text();
    uint8_t message[GANG_MAX_RETURN_MESSAGE];
    const size_t size = gang_destination_greeting(vm.destination, message);
    EXPECT_FALSE(gang_source_return_message(source, message, size, error.out()));
    EXPECT_NE(error.text().find("has the hash xxh3-128"), std::string::npos) << error.text();
    EXPECT_FALSE(gang_source_greeted(source));
    gang_source_leave(source, GANG_FAILED);
    gang_source_free(source);
}

TEST_F(Member, NothingHappensBeforeTheGreeting) {
    Vm vm(hosts_, "vm1", 1);
    EXPECT_FALSE(gang_source_greeted(vm.source));
    EXPECT_EQ(gang_source_step(vm.source, 1, vm.error.out()), GANG_STEP_WAIT);
    EXPECT_STREQ(vm.Stats().phase, "greeting");
    EXPECT_TRUE(vm.Greet());
    EXPECT_TRUE(gang_source_greeted(vm.source));
}

TEST_F(Member, Invariant5_GreetingsThatCannotBeRightAreRefused) {
    Vm vm(hosts_, "vm1", 1);
    uint8_t good[GANG_MAX_RETURN_MESSAGE], bad[GANG_MAX_RETURN_MESSAGE];
    size_t size = gang_destination_greeting(vm.destination, good);
    auto refused = [&](size_t at, uint8_t value, size_t bytes) {
        memcpy(bad, good, sizeof(bad));
        bad[at] = value;
        return !gang_source_return_message(vm.source, bad, bytes, vm.error.out());
    };
    EXPECT_TRUE(refused(1, 0, size));
    EXPECT_TRUE(refused(1, 3, size));
    EXPECT_TRUE(refused(0, 0, size - 1));
    EXPECT_TRUE(refused(0, 0, 0));
    EXPECT_TRUE(refused(3, 2, size));
    EXPECT_NE(vm.error.text().find("version 2"), std::string::npos) << vm.error.text();
    EXPECT_FALSE(gang_source_greeted(vm.source));
    EXPECT_TRUE(vm.Greet());
    EXPECT_FALSE(vm.Greet()) << "a second greeting could name another store";
}

TEST_F(Member, Invariant2_AcknowledgementsOutOfTurnAreRefused) {
    Start();
    EXPECT_FALSE(a_->AckNumber(0, 1)) << "nothing was sent";
    a_->Encode({0});
    a_->Encode({1});
    EXPECT_FALSE(a_->AckNumber(0, 0));
    EXPECT_FALSE(a_->AckNumber(0, 2)) << "the first is missing";
    EXPECT_FALSE(a_->AckNumber(1, 1)) << "nothing was sent on this channel";
    EXPECT_FALSE(a_->AckNumber(2, 1)) << "there is no such channel";
    EXPECT_FALSE(a_->AckNumber(65535, 1));
    EXPECT_EQ(gang_source_in_flight(a_->source), 2u);
    EXPECT_TRUE(a_->AckNumber(0, 1));
    EXPECT_FALSE(a_->AckNumber(0, 1)) << "twice";
    EXPECT_FALSE(a_->AckNumber(0, 3)) << "not sent yet";
    EXPECT_TRUE(a_->AckNumber(0, 2));
    EXPECT_EQ(gang_source_in_flight(a_->source), 0u);
}

TEST_F(Member, Invariant2_DeferredPagesComeBackOnceTheyAreConfirmed) {
    Start();
    ASSERT_TRUE(a_->Deliver(a_->Encode({0, 1, 2})));
    EXPECT_TRUE(b_->Encode({0, 1, 2}).empty());
    EXPECT_EQ(gang_source_deferred(b_->source), 3u);
    EXPECT_EQ(gang_source_deferred_ready(b_->source), 0u);
    EXPECT_EQ(b_->Take(false), std::vector<size_t>{});

    ASSERT_TRUE(a_->Ack());
    EXPECT_EQ(gang_source_deferred_ready(b_->source), 3u);
    EXPECT_EQ(b_->Take(false), (std::vector<size_t>{0, 1, 2}));
    EXPECT_EQ(b_->taken_block, b_.get());
    EXPECT_EQ(gang_source_deferred(b_->source), 0u);
    ASSERT_TRUE(b_->Send(b_->Encode({0, 1, 2})));
    EXPECT_EQ(b_->Stats().referenced_pages, 3u);
}

TEST_F(Member, InTheLastRoundDeferredPagesComeBackAndGoInFull) {
    Start();
    a_->Encode(kAll); // never arrives
    ASSERT_TRUE(b_->Send(b_->Encode(kAll)));
    EXPECT_EQ(gang_source_deferred(b_->source), 7u);
    gang_source_set_defer(b_->source, false);
    EXPECT_EQ(b_->Take(true).size(), 7u);
    ASSERT_TRUE(b_->Send(b_->Encode({0, 1, 2, 3, 4, 5, 6})));
    EXPECT_EQ(gang_source_deferred(b_->source), 0u);
    EXPECT_TRUE(b_->Identical());
}

TEST_F(Member, Invariant4_NobodyWaitsForAMemberThatLeft) {
    for (GangResult result : {GANG_FAILED, GANG_CANCELLED}) {
        Start();
        a_->Encode(kAll);
        ASSERT_TRUE(b_->Send(b_->Encode(kAll)));
        EXPECT_EQ(gang_source_deferred_ready(b_->source), 0u);
        a_->Leave(result);
        EXPECT_EQ(b_->Take(false).size(), 7u);
        ASSERT_TRUE(b_->Send(b_->Encode({0, 1, 2, 3, 4, 5, 6})));
        EXPECT_EQ(b_->Stats().takeovers, 7u);
        EXPECT_TRUE(b_->Identical());
        a_.reset();
        b_.reset();
        ASSERT_TRUE(Soon([&] { return hosts_.source.Status()["gangs"].empty(); }));
    }
}

TEST_F(Member, Invariant4_NobodyWaitsLongForAMemberWhoseDestinationIsSilent) {
    Start();
    a_->Encode(kAll);
    ASSERT_TRUE(b_->Send(b_->Encode(kAll)));
    EXPECT_EQ(gang_source_deferred_ready(b_->source), 0u);
    EXPECT_TRUE(Soon([&] { return gang_source_deferred_ready(b_->source) == 7; }));
}

// The owner moves on once, and then never again.
TEST_F(Member, Invariant4_NobodyWaitsLongForTheRestOfAMembersPackets) {
    Start();
    a_->Encode({0});
    a_->Encode({1});
    EXPECT_TRUE(b_->Encode({0, 1}).empty());
    EXPECT_EQ(gang_source_deferred_ready(b_->source), 0u);
    ASSERT_TRUE(a_->AckNumber(0, 1));
    EXPECT_EQ(b_->Take(false), std::vector<size_t>{0});
    EXPECT_TRUE(Soon([&] { return gang_source_deferred_ready(b_->source) == 1; }))
        << "a page waits for ever";
    EXPECT_EQ(b_->Take(false), std::vector<size_t>{1});
    ASSERT_FALSE(b_->Encode({1}).empty());
    EXPECT_EQ(b_->Stats().stalled_pages, 1u);
}

TEST_F(Member, Invariant4_GangdThatDiesBeforeTheDirectoryMeansMigratingWithoutIt) {
    Vm vm(hosts_, "vm1", 2);
    vm.Fill({1, 1, 2, 2, 0});
    ASSERT_TRUE(vm.Greet());
    EXPECT_EQ(gang_source_step(vm.source, 10, vm.error.out()), GANG_STEP_WAIT);
    hosts_.source.process->Signal(SIGKILL);
    hosts_.source.process->Wait();
    EXPECT_EQ(vm.StepTo(GANG_STEP_RUN), GANG_STEP_RUN) << vm.error.text();
    EXPECT_FALSE(vm.Stats().directory);
    ASSERT_TRUE(vm.Send(vm.Encode(kAll))) << vm.error.text();
    EXPECT_TRUE(vm.Identical());
    EXPECT_EQ(vm.Take(true).size(), 0u);
    EXPECT_EQ(gang_source_deferred_ready(vm.source), 0u);
    EXPECT_EQ(gang_source_in_flight(vm.source), 0u);
}

TEST_F(Member, Invariant4_GangdThatDiesAtTheBarrierDoesNotTakeTheDirectoryAlong) {
    Vm a(hosts_, "vm1", 2), b(hosts_, "vm2", 2);
    for (Vm *vm : {&a, &b}) {
        vm->Fill({1, 2, 3});
        ASSERT_TRUE(vm->Greet());
        gang_source_step(vm->source, 10, vm->error.out());
    }
    for (Vm *vm : {&a, &b}) {
        ASSERT_EQ(vm->StepTo(GANG_STEP_SCAN), GANG_STEP_SCAN);
    }
    a.Scan();
    EXPECT_EQ(gang_source_step(a.source, 10, a.error.out()), GANG_STEP_WAIT);
    for (Gangd *gangd : {&hosts_.source, &hosts_.destination}) {
        gangd->process->Signal(SIGKILL);
        gangd->process->Wait();
    }
    b.Scan();
    for (Vm *vm : {&a, &b}) {
        ASSERT_EQ(vm->StepTo(GANG_STEP_RUN), GANG_STEP_RUN) << vm->error.text();
        EXPECT_TRUE(vm->Stats().directory);
        ASSERT_TRUE(vm->Send(vm->Encode(kAll)));
        EXPECT_TRUE(vm->Identical());
    }
    EXPECT_EQ(b.Stats().referenced_pages, 3u);
}

// The second member of a gang, at the destination.
TEST_F(Member, ADestinationRefusesAnotherHashThanItAskedFor) {
    Vm vm(hosts_, "vm1", 1);
    Error error;
    EXPECT_EQ(gang_destination_new(hosts_.destination.socket.c_str(), "web", "vm2",
                                   GANG_HASH_BY_SHA256, error.out()),
              nullptr);
    EXPECT_NE(error.text().find("gang web has the hash xxh3-128, not sha256"), std::string::npos)
        << error.text();
}

// The board is of the gang, whatever stores its members go to.
TEST_F(Member, MembersOfAGangHaveOneBoard) {
    Start();
    EXPECT_TRUE(a_->Stats().board && b_->Stats().board);
    EXPECT_NE(a_->Stats().board_index, b_->Stats().board_index);
}

// While the gang is not complete there is no board to write it to.
TEST_F(Member, ABandwidthThatIsSetBeforeTheBoardComesIsNotLost) {
    Vm a(hosts_, "vm1", 2), b(hosts_, "vm2", 2);
    ASSERT_TRUE(a.Greet() && b.Greet());
    ASSERT_EQ(gang_source_step(a.source, 100, a.error.out()), GANG_STEP_WAIT);
    ASSERT_FALSE(a.Stats().board);
    EXPECT_FALSE(gang_source_set_max_bandwidth(a.source, 1000));
    EXPECT_FALSE(gang_source_set_max_bandwidth(a.source, 12345678)) << "the last counts";
    ASSERT_EQ(gang_source_step(b.source, 100, b.error.out()), GANG_STEP_WAIT);
    for (Vm *vm : {&b, &a}) {
        ASSERT_EQ(vm->StepTo(GANG_STEP_SCAN), GANG_STEP_SCAN) << vm->error.text();
    }
    EXPECT_EQ(b.Stats().max_bandwidth, 12345678u);
    EXPECT_TRUE(gang_source_set_max_bandwidth(b.source, 0));
    EXPECT_EQ(a.Stats().max_bandwidth, 0u);
}

TEST(MemberConfig, MissingCoordinatorIsAnErrorThatNamesIt) {
    TempDir dir;
    const std::string socket = dir / "none";
    GangSourceConfig config = {};
    config.socket = socket.c_str();
    config.gang = "web";
    config.member = "vm1";
    config.members = config.channels = 1;
    Error error;
    EXPECT_EQ(gang_source_new(&config, error.out()), nullptr);
    EXPECT_NE(error.text().find(socket), std::string::npos) << error.text();
    EXPECT_EQ(gang_destination_new(socket.c_str(), "web", "vm1", GANG_HASH_BY_ANY, error.out()), nullptr);
    EXPECT_NE(error.text().find(socket), std::string::npos) << error.text();
}

// gangd's side: GangdProtocol.HelloComesFirstOnceAndWithOurVersionAndLayout; what was
// made by another build is refused once more when it is mapped: Segment.AnotherBuilds...
TEST(MemberConfig, CoordinatorOfAnotherBuildIsRefusedAtBothEnds) {
    TempDir dir;
    const std::string path = dir / "other.sock";
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    ASSERT_EQ(listen(listener, 2), 0);
    std::thread other([&] {
        const std::string hello =
            json{{"op", "hello"}, {"version", 1}, {"layout", LayoutText(LayoutSignature() ^ 1)}}
                .dump();
        for (int i = 0; i < 2; i++) {
            int fd = accept(listener, nullptr, nullptr);
            char request[1024];
            EXPECT_GT(recv(fd, request, sizeof(request), 0), 0);
            EXPECT_GT(send(fd, hello.data(), hello.size(), MSG_NOSIGNAL), 0);
            EXPECT_EQ(recv(fd, request, sizeof(request), 0), 0) << "nothing more is asked";
            close(fd);
        }
    });
    GangSourceConfig config = {};
    config.socket = path.c_str();
    config.gang = "web";
    config.member = "vm1";
    config.members = config.channels = 1;
    Error error;
    EXPECT_EQ(gang_source_new(&config, error.out()), nullptr);
    EXPECT_NE(error.text().find("same release"), std::string::npos) << error.text();
    EXPECT_EQ(gang_destination_new(path.c_str(), "web", "vm1", GANG_HASH_BY_ANY, error.out()), nullptr);
    EXPECT_NE(error.text().find("same release"), std::string::npos) << error.text();
    other.join();
    close(listener);
}

TEST_F(Member, ChannelsThatCannotBeAreRefused) {
    GangSourceConfig config = {};
    config.socket = hosts_.source.socket.c_str();
    config.gang = "web";
    config.member = "vm1";
    config.members = 1;
    Error error;
    for (uint32_t channels : {0u, 65u}) {
        config.channels = channels;
        EXPECT_EQ(gang_source_new(&config, error.out()), nullptr);
        EXPECT_NE(error.text().find("multifd-channels"), std::string::npos) << error.text();
    }
    Vm vm(hosts_, "vm1", 1);
    uint64_t offset = 0;
    GangPacket packet;
    EXPECT_FALSE(gang_source_encode(vm.source, 2, "pc.ram", nullptr, vm.from.data(), &offset, 1,
                                    IsZero, &packet, error.out()));
    size_t size;
    bool raw;
    uint8_t header[GANG_PACKET_HEADER_SIZE] = {};
    EXPECT_FALSE(gang_destination_header(vm.destination, 64, header, &size, &size, &size, &raw,
                                         error.out()));
    EXPECT_NE(error.text(), "");
}

} // namespace
} // namespace gang
