"""The default seccomp profile: which system calls a container may make, by the capabilities it holds.

The facts are those of Docker's default profile (docs.docker.com, "Seccomp security profiles for Docker"; profile of
moby, 2026): everything is refused with EPERM but what stands here. A call that a capability governs is allowed to a
container that holds the capability. What needs arguments looked at: clone without new namespaces, socket without
AF_ALG and AF_VSOCK, and five personalities. clone3 cannot be looked into by a filter, so that without CAP_SYS_ADMIN
it pretends not to exist (ENOSYS) and the C library takes clone. io_uring is not allowed at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from orlop.spec.runtime import Seccomp, SeccompArg, SeccompRule

# raised whenever a table below changes; assembled programs are kept under it
VERSION = "1"

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_EPERM, _ENOSYS = 1, 38
_CLONE_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET
_AF_ALG, _AF_VSOCK = 38, 40
# PER_LINUX, PER_LINUX32, UNAME26, PER_LINUX32 with UNAME26, and the query
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)

_ALWAYS = """
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32
getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr
mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid
setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat
shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice
stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write
writev
"""

# safe since seccomp runs after ptrace may have changed a call (Linux 4.8)
_SINCE_4_8 = "process_vm_readv process_vm_writev ptrace"

# names of `uname -m`: the calls that only they have
_BY_MACHINE: tuple[tuple[tuple[str, ...], str], ...] = (
    (("ppc64le",), "sync_file_range2 swapcontext"),
    (
        ("armv7l", "aarch64"),
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (("x86_64",), "arch_prctl"),
    (("x86_64", "i686"), "modify_ldt"),
    (("s390x",), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (("riscv64",), "riscv_flush_icache"),
)

_BY_CAPABILITY: dict[str, str] = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr "
    "lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd "
    "setdomainname sethostname setns syslog umount umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

# `uname -m`: the architectures whose programs the machine runs, its own first
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "mips64": ("SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64N32"),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "loongarch64": ("SCMP_ARCH_LOONGARCH64",),
}


def default_profile(capabilities: Collection[str], machine: str, kernel: tuple[int, int]) -> Seccomp:
    """The default profile for a bounding set, a `uname -m` and a kernel version (major, minor)."""
    return Seccomp(
        default_action=ERRNO,
        default_errno_ret=_EPERM,
        architectures=ARCHITECTURES.get(machine, ()),
        syscalls=tuple(_rules(frozenset(capabilities), machine, kernel)),
    )


def _rules(capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> Iterator[SeccompRule]:
    yield _allow(_ALWAYS)
    if kernel >= (4, 8):
        yield _allow(_SINCE_4_8)
    # families 38 (AF_ALG, long a source of kernel defects) and 40 (AF_VSOCK, which no namespace confines) fall out
    yield _allow("socket", 0, _AF_ALG, "SCMP_CMP_LT")
    yield _allow("socket", 0, _AF_ALG + 1, "SCMP_CMP_EQ")
    yield _allow("socket", 0, _AF_VSOCK, "SCMP_CMP_GT")
    for personality in _PERSONALITIES:
        yield _allow("personality", 0, personality, "SCMP_CMP_EQ")
    for machines, calls in _BY_MACHINE:
        if machine in machines:
            yield _allow(calls)
    for capability, calls in _BY_CAPABILITY.items():
        if capability in capabilities:
            yield _allow(calls)
    if "CAP_SYS_ADMIN" not in capabilities:
        # s390 passes the flags second (clone(2), "C library/kernel differences")
        yield _allow("clone", 1 if machine == "s390x" else 0, _CLONE_NAMESPACES, "SCMP_CMP_MASKED_EQ")
        yield SeccompRule(names=("clone3",), action=ERRNO, errno_ret=_ENOSYS)


def _allow(calls: str, index: int = 0, value: int = 0, op: str = "") -> SeccompRule:
    args = (SeccompArg(index=index, value=value, op=op),) if op else ()
    return SeccompRule(names=tuple(calls.split()), action=ALLOW, args=args)
