"""What the default profile answers, asked of the assembled program itself."""

from __future__ import annotations

import hashlib
from functools import cache

import bpf
import pytest

from orlop.seccomp.assemble import assemble
from orlop.seccomp.default import VERSION, default_profile
from orlop.spec.capabilities import DEFAULT, NAMES
from orlop.spec.document import encode
from orlop.sys import libseccomp

EPERM, ENOSYS = bpf.errno(1), bpf.errno(38)
NEW_USER, SIGCHLD = 0x10000000, 17


@cache
def program(*added: str) -> bytes:
    return assemble(default_profile((*DEFAULT, *added), "x86_64", (6, 1)))


def answer(name: str, *args: int, caps: tuple[str, ...] = (), arch: int = bpf.X86_64) -> int:
    return bpf.run(program(*caps), libseccomp.resolve(name, arch), args, arch)


@pytest.mark.parametrize(
    "name", "read write openat execve clone3 ptrace mmap futex chroot arch_prctl modify_ldt".split()
)
def test_ordinary_calls_are_allowed(name: str) -> None:
    assert answer(name) == (ENOSYS if name == "clone3" else bpf.ALLOW)


@pytest.mark.parametrize(
    "name",
    "mount umount2 pivot_root setns unshare bpf keyctl add_key request_key kexec_load init_module reboot swapon "
    "io_uring_setup io_uring_enter io_uring_register userfaultfd perf_event_open open_by_handle_at syslog acct iopl "
    "settimeofday clock_settime vhangup kcmp mbind move_pages set_mempolicy nfsservctl quotactl sysfs uselib "
    "fsopen fsmount open_tree move_mount lookup_dcookie name_to_handle".split(),
)
def test_dangerous_calls_are_refused(name: str) -> None:
    number = libseccomp.resolve(name, bpf.X86_64)
    if number < 0:
        pytest.skip(f"this libseccomp does not know {name}")
    assert bpf.run(program(), number) == EPERM


def test_clone_is_refused_with_any_namespace_flag() -> None:
    assert answer("clone", SIGCHLD) == bpf.ALLOW
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, NEW_USER, 0x20000000, 0x40000000):
        assert answer("clone", SIGCHLD | flag) == EPERM, hex(flag)
    assert answer("clone", NEW_USER, caps=("CAP_SYS_ADMIN",)) == bpf.ALLOW


def test_clone3_pretends_not_to_exist_without_sys_admin() -> None:
    assert answer("clone3") == ENOSYS
    assert answer("clone3", caps=("CAP_SYS_ADMIN",)) == bpf.ALLOW


@pytest.mark.parametrize(
    ("family", "allowed"),
    [(1, True), (2, True), (10, True), (16, True), (38, False), (39, True), (40, False), (44, True)],
)
def test_socket_families(family: int, allowed: bool) -> None:
    assert answer("socket", family) == (bpf.ALLOW if allowed else EPERM)


@pytest.mark.parametrize(
    ("value", "allowed"),
    [(0, True), (8, True), (0x20000, True), (0x20008, True), (0xFFFFFFFF, True), (0x0040000, False), (1, False)],
)
def test_personalities(value: int, allowed: bool) -> None:
    assert answer("personality", value) == (bpf.ALLOW if allowed else EPERM)


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_PTRACE", "kcmp"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_SYS_TIME", "settimeofday"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
    ],
)
def test_a_capability_brings_its_calls(capability: str, name: str) -> None:
    assert answer(name) == EPERM
    assert answer(name, caps=(capability,)) == bpf.ALLOW


def test_chroot_goes_with_its_capability() -> None:
    assert bpf.run(assemble(default_profile((), "x86_64", (6, 1))), libseccomp.resolve("chroot", bpf.X86_64)) == EPERM


def test_a_call_from_the_future_does_not_exist() -> None:
    assert bpf.run(program(), 900) == ENOSYS
    assert bpf.run(program(), 900, arch=bpf.X86) == ENOSYS
    assert bpf.run(program(), 0x40000000 | 900) == ENOSYS


def test_the_other_architectures_of_the_machine_are_filtered_too() -> None:
    assert answer("read", arch=bpf.X86) == bpf.ALLOW
    assert answer("mount", arch=bpf.X86) == EPERM
    x32_mount = 0x40000000 | libseccomp.resolve("mount", bpf.X86_64)
    assert bpf.run(program(), x32_mount) == EPERM


def test_an_unknown_architecture_kills() -> None:
    assert bpf.run(program(), 0, arch=bpf.AARCH64) == bpf.KILL_THREAD


def test_ptrace_needs_a_kernel_that_filters_after_tracing() -> None:
    old = assemble(default_profile(DEFAULT, "x86_64", (4, 7)))
    assert bpf.run(old, libseccomp.resolve("ptrace", bpf.X86_64)) == EPERM


def test_every_machine_and_set_gives_rules() -> None:
    for machine in ("x86_64", "aarch64", "s390x", "riscv64", "ppc64le", "unheard-of"):
        for held in ((), DEFAULT, NAMES):
            assert default_profile(held, machine, (6, 1)).syscalls


def test_s390_passes_the_flags_of_clone_second() -> None:
    rule = next(r for r in default_profile((), "s390x", (6, 1)).syscalls if r.names == ("clone",))
    assert rule.args[0].index == 1


def test_tables_and_version_change_together() -> None:
    """When this fails, the tables have changed: raise VERSION beside them, then put the new digest here."""
    profiles = [default_profile(held, "x86_64", (6, 1)) for held in (DEFAULT, NAMES)]
    digest = hashlib.sha256(b"".join(encode(profile) for profile in profiles)).hexdigest()
    assert (VERSION, digest[:16]) == ("1", "1179ca6ff242a3c6")
