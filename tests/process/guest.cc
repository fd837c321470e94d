// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The simulated VMs' memory and the writes to it.

#include "guest.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>

namespace gang::process {

World *NewWorld() {
    void *p =
        mmap(nullptr, sizeof(World), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        throw std::runtime_error("no memory for the VMs");
    }
    auto *world = static_cast<World *>(p); // all zero: a valid value of every member
    for (size_t i = 0; i < kContents; i++) {
        test::FillPage(world->contents[i], i);
    }
    return world;
}

void Boot(World *world, Vm *vm, test::Rng &rng) {
    vm->cpu = Cpu::kOff;
    vm->finish = 0;
    vm->completed = 0;
    vm->error[0] = 0;
    for (auto &page : vm->source) {
        memcpy(page, world->contents[test::Below(rng, kContents)], kPageSize);
    }
    // The destination's memory is not what it should be until it is sent.
    memset(vm->destination, 0xdb, sizeof(vm->destination));
    for (auto &word : vm->dirty) {
        word = ~uint64_t{0};
    }
}

namespace {

void Touch(Vm *vm, size_t page) {
    vm->dirty[page / 64].fetch_or(uint64_t{1} << page % 64);
}

// A few pages get half of all writes, so that pages are often written while
// they are being sent.
size_t SomePage(test::Rng &rng) {
    return test::Below(rng, test::Below(rng, 2) ? 16 : kVmPages);
}

// New content comes up all the time, in all VMs at once: there is always some
// in flight, and several VMs want to be the one that publishes it.
void WriteEverywhere(World *world, test::Rng &rng) {
    uint8_t *content = world->contents[kContents / 2 + test::Below(rng, kContents / 2)];
    const size_t page = SomePage(rng);
    test::FillPage(content, rng());
    for (Vm &vm : world->vms) {
        if (vm.cpu == Cpu::kRuns) {
            memcpy(vm.source[page], content, kPageSize);
            Touch(&vm, page);
        }
    }
}

void WriteSomewhere(World *world, Vm *vm, test::Rng &rng) {
    const size_t page = SomePage(rng);
    if (test::Below(rng, 4)) {
        memcpy(vm->source[page], world->contents[test::Below(rng, kContents)], kPageSize);
    } else {
        uint64_t word = rng();
        memcpy(vm->source[page] + 8 * test::Below(rng, kPageSize / 8), &word, sizeof(word));
    }
    Touch(vm, page);
}

} // namespace

void RunGuests(World *world, uint64_t seed) {
    test::Rng rng(seed);
    while (!world->over) {
        bool running = false;
        for (Vm &vm : world->vms) {
            Cpu stop = Cpu::kStopWanted;
            vm.cpu.compare_exchange_strong(stop, Cpu::kStopped);
            for (uint64_t n = test::Below(rng, 8); n > 0 && vm.cpu == Cpu::kRuns; n--) {
                WriteSomewhere(world, &vm, rng);
                running = true;
            }
        }
        if (running && test::Below(rng, 2)) {
            WriteEverywhere(world, rng);
        }
        usleep(static_cast<useconds_t>(test::Below(rng, 200)));
    }
}

} // namespace gang::process
