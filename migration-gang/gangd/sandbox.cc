// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// The filter, by libseccomp.

#include "sandbox.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

namespace gangd {

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kPossible = false;
#else
constexpr bool kPossible = true;
#endif

// Whatever their arguments: on descriptors that gangd has, on memory, on itself.
constexpr int kAllowed[] = {
    // clients, and those who ask to be
    SCMP_SYS(accept4), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg),
    SCMP_SYS(getsockopt), SCMP_SYS(shutdown), SCMP_SYS(close),
    // the main loop, its wake-ups, the log
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(writev),
    SCMP_SYS(futex), SCMP_SYS(restart_syscall), SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(gettimeofday), SCMP_SYS(nanosleep), SCMP_SYS(sched_yield),
    // shared memory: sized, sealed, looked at, wiped
    SCMP_SYS(ftruncate), SCMP_SYS(fstat), SCMP_SYS(fstatfs), SCMP_SYS(lseek), SCMP_SYS(pread64),
    SCMP_SYS(getrandom),
    // the heap; mmap and mprotect are below
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
    // who it is, and its end
    SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(unlink), SCMP_SYS(unlinkat),
    SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(exit), SCMP_SYS(exit_group),
    // a thread of GLib's that was made before the filter and begins after it
    SCMP_SYS(rseq), SCMP_SYS(set_robust_list)};

// What nothing here does, and no library as a fall-back.
constexpr int kDeadly[] = {
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(pidfd_getfd),
    // No socket of any kind: neither the network nor another local service.
    SCMP_SYS(socket), SCMP_SYS(socketpair), SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(listen),
    SCMP_SYS(io_uring_setup), SCMP_SYS(bpf), SCMP_SYS(userfaultfd), SCMP_SYS(perf_event_open),
    SCMP_SYS(mount), SCMP_SYS(umount2), SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(unshare),
    SCMP_SYS(setns), SCMP_SYS(setuid), SCMP_SYS(setresuid), SCMP_SYS(setgid), SCMP_SYS(capset),
    SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(kexec_load), SCMP_SYS(reboot)};

// Rules with one condition on one argument.
struct Rule {
    int call;
    scmp_arg_cmp condition;
};
const Rule kConditional[] = {
    // Nothing that was written becomes code.
    {SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)},
    {SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)},
    {SCMP_SYS(memfd_create), SCMP_A1(SCMP_CMP_EQ, MFD_CLOEXEC | MFD_ALLOW_SEALING)},
    {SCMP_SYS(fallocate), SCMP_A1(SCMP_CMP_EQ, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)},
    {SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_DUPFD_CLOEXEC)},
    {SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_ADD_SEALS)},
    {SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_GET_SEALS)},
    {SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_GETFL)},
    {SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME)},
};

gang::Status Failed(const char *what, int error) {
    return gang::Status::System(what, -error);
}

} // namespace

bool SandboxPossible() {
    return kPossible;
}

gang::Status EnterSandbox() {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
        return gang::Status::System("prctl", errno);
    }
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0) {
        return {gang::Code::kUnavailable, "this kernel has no system call filters"};
    }
    std::unique_ptr<void, void (*)(void *)> filter(seccomp_init(SCMP_ACT_ERRNO(ENOSYS)),
                                                   seccomp_release);
    if (!filter) {
        return gang::Status::System("seccomp_init", ENOMEM);
    }
    // All threads: GLib has one for signals already.
    int error = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);
    for (int call : kAllowed) {
        error = error ? error : seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0);
    }
    for (const Rule &rule : kConditional) {
        error = error ? error
                      : seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, rule.call, 1,
                                               &rule.condition);
    }
    // abort() sends its signal to its own thread.
    error = error ? error
                  : seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                     SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(getpid())));
    for (int call : kDeadly) {
        error = error ? error : seccomp_rule_add(filter.get(), SCMP_ACT_KILL_PROCESS, call, 0);
    }
    if (error) {
        return Failed("cannot build the system call filter", error);
    }
    if ((error = seccomp_load(filter.get())) != 0) {
        return Failed("cannot load the system call filter (--no-seccomp goes without)", error);
    }
    return gang::Status::Ok();
}

} // namespace gangd
