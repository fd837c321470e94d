// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Whether this machine's KVM stops a virtual CPU before its dirty ring overruns.
// A guest of twenty bytes writes to one page after the other, nobody takes entries
// out of its ring, and when KVM says that the ring is full, no more pages may have
// been written than the ring has entries: what is beyond is in no log.
//
// Exit status: 0, it does; 1, writes are lost; 77, no KVM or no ring here.

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr uint32_t kPage = 4096;
constexpr uint32_t kFirst = 1 << 20; // where the guest begins to write
constexpr uint32_t kEnd = 100 << 20;
constexpr uint32_t kEntries = 4096; // QEMU's usual dirty-ring-size
constexpr int kSkipped = 77;

[[noreturn]] void Skip(const char *what) {
    printf("not tested: %s: %s\n", what, strerror(errno));
    exit(kSkipped);
}

int Must(int result, const char *what) {
    if (result < 0) {
        Skip(what);
    }
    return result;
}

uint8_t *Map(size_t size, int flags, int fd, off_t offset) {
    void *p = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (p == MAP_FAILED) {
        Skip("mmap");
    }
    return static_cast<uint8_t *>(p);
}

// Flat 32-bit segments, no paging.
void SetFlat(int vcpu, uint32_t code) {
    kvm_sregs sregs = {};
    Must(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    kvm_segment flat = {};
    flat.limit = UINT32_MAX;
    flat.selector = 16;
    flat.type = 3; // data, writable
    flat.present = flat.db = flat.s = flat.g = 1;
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat;
    flat.selector = 8;
    flat.type = 11; // code, readable
    sregs.cs = flat;
    sregs.cr0 |= 1;
    Must(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    kvm_regs regs = {};
    regs.rip = code;
    regs.rflags = 2;
    Must(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

// Pages that a new guest has written when its ring is said to be full.
uint32_t WrittenWhenFull() {
    // mov eax, kFirst; again: inc byte [eax]; add eax, kPage; cmp eax, kEnd; jl again;
    // jmp to the beginning
    const uint8_t code[] = {0xb8,       0,    0,    0x10,
                            0,             //
                            0xfe,       0, //
                            0x05,       0,    0x10, 0,
                            0, //
                            0x3d,       0,    0,    kEnd >> 16 & 0xff,
                            kEnd >> 24, //
                            0x7c,       0xf2, 0xeb, 0xeb};
    constexpr uint32_t kCode = 0x7000;

    const int kvm = Must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    const int vm = Must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    kvm_enable_cap ring = {};
    ring.cap = KVM_CAP_DIRTY_LOG_RING;
    ring.args[0] = kEntries * sizeof(kvm_dirty_gfn);
    Must(ioctl(vm, KVM_ENABLE_CAP, &ring), "a dirty ring");
    Must(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR"); // Intel's needs it

    uint8_t *memory = Map(kEnd, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(memory + kCode, code, sizeof(code));
    kvm_userspace_memory_region region = {};
    region.memory_size = kEnd;
    region.userspace_addr = reinterpret_cast<uintptr_t>(memory);
    region.flags = KVM_MEM_LOG_DIRTY_PAGES;
    Must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");

    const int vcpu = Must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    const int run_size = Must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    auto *run = reinterpret_cast<volatile kvm_run *>(
        Map(static_cast<size_t>(run_size), MAP_SHARED, vcpu, 0));
    Map(kEntries * sizeof(kvm_dirty_gfn), MAP_SHARED, vcpu,
        off_t{kPage} * KVM_DIRTY_LOG_PAGE_OFFSET);
    SetFlat(vcpu, kCode);

    int result;
    do {
        result = ioctl(vcpu, KVM_RUN, 0);
    } while (result < 0 && (errno == EINTR || errno == EAGAIN));
    Must(result, "KVM_RUN");
    if (run->exit_reason != KVM_EXIT_DIRTY_RING_FULL) {
        printf("not tested: KVM_RUN ended for reason %u\n", run->exit_reason);
        exit(kSkipped);
    }
    uint32_t written = 0;
    for (uint32_t at = kFirst; at < kEnd; at += kPage) {
        written += memory[at] != 0;
    }
    munmap(memory, kEnd);
    close(vcpu); // what is mapped of it stays, for a process that ends soon
    close(vm);
    close(kvm);
    return written;
}

} // namespace

int main() {
    alarm(60);
    // How far it runs over differs from one time to the next.
    uint32_t most = 0;
    for (int i = 0; i < 16; i++) {
        most = std::max(most, WrittenWhenFull());
    }
    printf("up to %u pages were written when KVM called its ring of %u entries full\n", most,
           kEntries);
    return most > kEntries;
}
