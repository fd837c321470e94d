// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Processes share one directory and one store, and die at random points; those
// that live end with every page right (invariants 1, 2, 4 and 5).
//
// A gang here is eight VMs of two processes each, as at QEMU's source and
// destination, and a process that plays the guests.  This process plays both
// hosts' gangd: it admits members, and marks as dead whose connection hung up.

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <iostream>

#include "guest.h"
#include "migration.h"
#include "testing.h"

namespace gang::process {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Forks; `run` is all the child does.
template <typename Run> pid_t Start(Run run) {
    pid_t pid = fork();
    if (pid == 0) {
        alarm(120); // nobody outlives a test that was itself killed
        _exit(run());
    }
    return pid;
}

struct Member {
    uint32_t index = 0;
    pid_t source = 0, destination = 0; // 0: reaped
    bool killed = false;               // either, by this test
    bool running() const { return source || destination; }
};

struct Totals {
    uint64_t epochs = 0, kills = 0, failed = 0, completed = 0;
    uint64_t references = 0, publishes = 0, takeovers = 0, store_full = 0, stalled = 0,
             deferred = 0;
};

// One gang from its first member to its last.
class Epoch {
  public:
    Epoch(World *world, test::Rng &rng, uint64_t slots, uint64_t directory_pages, Totals *totals)
        : world_(world), rng_(rng), slots_(slots), gang_(slots, directory_pages), totals_(totals) {
        world_->over = 0;
        for (Vm &vm : world_->vms) {
            vm.cpu = Cpu::kOff;
        }
        guests_ = Start([&, seed = rng_()] {
            RunGuests(world_, seed);
            return 0;
        });
    }

    ~Epoch() {
        StopGuests();
        for (Member &member : members_) {
            for (pid_t pid : {member.source, member.destination}) {
                if (pid > 0) {
                    kill(pid, SIGKILL);
                    waitpid(pid, nullptr, 0);
                }
            }
        }
    }

    void Run() {
        for (size_t i = 0; i < kVms; i++) {
            Launch(i);
        }
        // Each join takes one of the directory's member records.
        const uint64_t joins = kMaxMembers - kVms;
        const auto end = Clock::now() + milliseconds(1500);
        for (uint64_t joined = 0; joined < joins && Clock::now() < end;) {
            usleep(static_cast<useconds_t>(test::Below(rng_, 12000)));
            KillOne();
            for (size_t i = 0; i < kVms && joined < joins; i++) {
                Reap(i);
                if (!members_[i].running()) {
                    Launch(i);
                    joined++;
                }
            }
            if (testing::Test::HasFailure()) {
                return;
            }
        }
        Finish();
        StopGuests();
        CheckSharedContent();
        totals_->epochs++;
    }

  private:
    void StopGuests() {
        world_->over = 1;
        if (guests_) {
            waitpid(guests_, nullptr, 0);
            guests_ = 0;
        }
    }

    void Launch(size_t i) {
        Vm *vm = &world_->vms[i];
        Boot(world_, vm, rng_);
        Member &member = members_[i];
        member = {};
        member.index = gang_.AddMember();
        int ends[2];
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        const uint64_t seed = rng_();
        member.source = Start([&] {
            close(ends[1]);
            return RunSource(vm, gang_.directory_fd.get(), member.index, ends[0], seed);
        });
        member.destination = Start([&] {
            close(ends[0]);
            return RunDestination(vm, gang_.store_fd.get(), ends[1], seed + 1);
        });
        close(ends[0]);
        close(ends[1]);
    }

    // Kills one side of a VM or both, or makes a destination stall for a while.
    void KillOne() {
        Member &member = members_[test::Below(rng_, kVms)];
        switch (test::Below(rng_, 6)) {
        case 0:
            Stall(&member);
            return;
        case 1:
        case 2:
            Kill(&member, member.destination);
            return;
        case 3:
            Kill(&member, member.destination);
            [[fallthrough]];
        default:
            Kill(&member, member.source);
        }
    }
    void Kill(Member *member, pid_t pid) {
        if (pid > 0) {
            kill(pid, SIGKILL);
            member->killed = true;
            totals_->kills++;
        }
    }
    void Stall(Member *member) {
        if (member->destination > 0) {
            kill(member->destination, SIGSTOP);
            usleep(static_cast<useconds_t>(1000 * test::Below(rng_, 100)));
            kill(member->destination, SIGCONT);
        }
    }

    // Collects what has ended; an end that was nobody's will is the death of the
    // member, which gangd sees as a hang-up a little later.
    void Reap(size_t i) {
        Member &member = members_[i];
        int status;
        if (member.source && waitpid(member.source, &status, WNOHANG) == member.source) {
            member.source = 0;
            world_->vms[i].cpu = Cpu::kOff;
            AddUp(member.index);
            if (WIFSIGNALED(status)) {
                EXPECT_EQ(WTERMSIG(status), SIGKILL) << "the source of VM " << i;
                usleep(static_cast<useconds_t>(test::Below(rng_, 3000)));
                gang_.directory->SetMemberState(member.index, MemberState::kDead);
            } else {
                EXPECT_NE(WEXITSTATUS(status), kExitError) << world_->vms[i].error;
                EXPECT_LE(WEXITSTATUS(status), kExitError);
                totals_->failed += WEXITSTATUS(status) == kExitPeerGone;
            }
        }
        if (member.destination &&
            waitpid(member.destination, &status, WNOHANG) == member.destination) {
            member.destination = 0;
            if (WIFSIGNALED(status)) {
                EXPECT_EQ(WTERMSIG(status), SIGKILL) << "the destination of VM " << i;
            } else {
                EXPECT_EQ(WEXITSTATUS(status), kExitDone) << world_->vms[i].error;
            }
        }
    }

    void AddUp(uint32_t index) {
        const Directory &d = *gang_.directory;
        totals_->references += d.stat(index, Stat::kReferencedPages);
        totals_->publishes += d.stat(index, Stat::kPublishedPages);
        totals_->takeovers += d.stat(index, Stat::kTakeovers);
        totals_->store_full += d.stat(index, Stat::kStoreFullPages);
        totals_->stalled += d.stat(index, Stat::kStalledPages);
        totals_->deferred += d.stat(index, Stat::kDeferredPages);
    }

    // Lets everybody who was not killed arrive, and looks at their memory.
    void Finish() {
        for (Vm &vm : world_->vms) {
            vm.finish = 1;
        }
        const auto end = Clock::now() + milliseconds(60000);
        for (size_t i = 0; i < kVms; i++) {
            while (members_[i].running()) {
                for (size_t k = 0; k < kVms; k++) {
                    Reap(k);
                }
                ASSERT_LT(Clock::now(), end) << "VM " << i << " never arrives";
                usleep(1000);
            }
        }
        for (size_t i = 0; i < kVms; i++) {
            const Vm &vm = world_->vms[i];
            if (!vm.completed) {
                EXPECT_TRUE(members_[i].killed) << "VM " << i << " did not arrive: " << vm.error;
                continue;
            }
            totals_->completed++;
            for (size_t page = 0; page < kVmPages; page++) {
                EXPECT_EQ(memcmp(vm.source[page], vm.destination[page], kPageSize), 0)
                    << "VM " << i << " page " << page << " differs";
            }
        }
    }

    // What the directory calls confirmed is in the store, whoever has died.
    void CheckSharedContent() {
        uint8_t page[kPageSize];
        Hash hash;
        size_t confirmed = 0;
        for (size_t i = 1; i < kContents; i++) {
            const Hash wanted = gang_.directory->hasher()(world_->contents[i], kPageSize);
            Decision d = gang_.directory->Decide(wanted, members_[0].index);
            if (d.verdict != Verdict::kReference) {
                continue;
            }
            confirmed++;
            GANG_OK(gang_.store->Get(d.slot, page, &hash));
            EXPECT_EQ(memcmp(page, world_->contents[i], kPageSize), 0)
                << "content " << i << " is not what is in slot " << d.slot;
        }
        // Whoever took the only chunk of slots may have died before it was of use.
        if (slots_ > kChunkSlots) {
            EXPECT_GT(confirmed, 0u);
        }
        for (uint32_t slot = 0; slot < gang_.store->slots(); slot++) {
            EXPECT_NE(gang_.store->Get(slot, page, &hash).code(), Code::kCorrupt) << slot;
        }
    }

    World *world_;
    test::Rng &rng_;
    const uint64_t slots_;
    test::Gang gang_;
    Totals *totals_;
    Member members_[kVms];
    pid_t guests_ = 0;
};

TEST(Processes, Invariant4_WhoeverIsKilledTheOthersArriveWithEveryPageRight) {
    test::Rng rng(test::TestSeed());
    const bool long_run = getenv("GANG_LONG") != nullptr;
    const auto end = Clock::now() + std::chrono::seconds(long_run ? 600 : 18);
    World *world = NewWorld();
    Totals totals;
    // A store with room for all, for some, and for nearly nothing; a directory
    // that overflows.  Every life takes a chunk of slots for each channel.
    const struct {
        uint64_t slots, directory_pages;
    } kinds[] = {{65536, 65536}, {2048, 65536}, {65536, 65536}, {kChunkSlots, 65536}, {65536, 1}};
    while (Clock::now() < end && !HasFailure()) {
        const auto &kind = kinds[totals.epochs % std::size(kinds)];
        Epoch(world, rng, kind.slots, kind.directory_pages, &totals).Run();
    }
    std::cout << totals.epochs << " gangs, " << totals.kills << " kills, " << totals.failed
              << " sources without destination, " << totals.completed
              << " arrived; pages: " << totals.publishes << " published, " << totals.references
              << " referenced, " << totals.deferred << " deferred, " << totals.takeovers
              << " taken over, " << totals.stalled << " not waited for, " << totals.store_full
              << " without slot\n";
    // A run in which nothing of this happened has tested nothing.
    EXPECT_GT(totals.kills, 20u);
    EXPECT_GT(totals.completed, kVms / 2);
    EXPECT_GT(totals.references, 1000u);
    EXPECT_GT(totals.deferred, 0u);
    EXPECT_GT(totals.takeovers, 0u);
}

} // namespace
} // namespace gang::process
