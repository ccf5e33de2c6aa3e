from __future__ import annotations

import os
import struct

import bpf
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.seccomp.assemble import NEW_LISTENER, assemble, flags
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import Seccomp, SeccompArg, SeccompRule
from orlop.sys import libseccomp

ALLOW_ALL = Seccomp(default_action="SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_X86_64",))
GETPID = libseccomp.resolve("getpid", bpf.X86_64)


def rule(*names: str, action: str = "SCMP_ACT_ERRNO", **more: object) -> SeccompRule:
    return SeccompRule(names=names, action=action, **more)  # type: ignore[arg-type]


def with_rules(*rules: SeccompRule, **more: object) -> Seccomp:
    return msgspec.structs.replace(ALLOW_ALL, syscalls=rules, **more)


@pytest.mark.parametrize(
    ("action", "value", "result"),
    [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x80000000),
        ("SCMP_ACT_TRAP", None, 0x00030000),
        ("SCMP_ACT_ERRNO", None, bpf.errno(1)),
        ("SCMP_ACT_ERRNO", 0, bpf.errno(0)),
        ("SCMP_ACT_ERRNO", 13, bpf.errno(13)),
        ("SCMP_ACT_TRACE", 7, 0x7FF00007),
        ("SCMP_ACT_LOG", None, 0x7FFC0000),
    ],
)
def test_every_action(action: str, value: int | None, result: int) -> None:
    program = assemble(with_rules(rule("getpid", action=action, errno_ret=value)))
    assert bpf.run(program, GETPID) == result
    assert bpf.run(program, GETPID + 1) == bpf.ALLOW


def test_notify_asks_for_a_listener() -> None:
    seccomp = with_rules(rule("getpid", action="SCMP_ACT_NOTIFY"), listener_path="/run/agent.sock")
    assert flags(seccomp) == NEW_LISTENER
    assert bpf.run(assemble(seccomp), GETPID) == 0x7FC00000


def test_tsync_with_a_listener_takes_the_third_flag() -> None:
    seccomp = with_rules(
        rule("getpid", action="SCMP_ACT_NOTIFY"),
        listener_path="/a",
        flags=("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"),
    )
    assert flags(seccomp) == 1 | NEW_LISTENER | 16 | 32


@pytest.mark.parametrize(
    ("op", "value", "two", "yes", "no"),
    [
        ("SCMP_CMP_NE", 5, 0, 6, 5),
        ("SCMP_CMP_LT", 5, 0, 4, 5),
        ("SCMP_CMP_LE", 5, 0, 5, 6),
        ("SCMP_CMP_EQ", 5, 0, 5, 6),
        ("SCMP_CMP_GE", 5, 0, 5, 4),
        ("SCMP_CMP_GT", 5, 0, 6, 5),
        ("SCMP_CMP_MASKED_EQ", 0xF0, 0x20, 0x2F, 0x3F),
        ("SCMP_CMP_EQ", 1 << 40, 0, 1 << 40, 0),
    ],
)
def test_every_operator(op: str, value: int, two: int, yes: int, no: int) -> None:
    program = assemble(with_rules(rule("getpid", args=(SeccompArg(index=2, value=value, op=op, value_two=two),))))
    assert bpf.run(program, GETPID, (0, 0, yes)) == bpf.errno(1)
    assert bpf.run(program, GETPID, (0, 0, no)) == bpf.ALLOW


def test_conditions_on_different_arguments_must_all_hold() -> None:
    args = (SeccompArg(index=0, value=1, op="SCMP_CMP_EQ"), SeccompArg(index=1, value=2, op="SCMP_CMP_EQ"))
    program = assemble(with_rules(rule("getpid", args=args)))
    assert bpf.run(program, GETPID, (1, 2)) == bpf.errno(1)
    assert bpf.run(program, GETPID, (1, 3)) == bpf.ALLOW


def test_conditions_on_one_argument_are_alternatives() -> None:
    args = (SeccompArg(index=0, value=1, op="SCMP_CMP_EQ"), SeccompArg(index=0, value=2, op="SCMP_CMP_EQ"))
    program = assemble(with_rules(rule("getpid", args=args)))
    assert [bpf.run(program, GETPID, (value,)) for value in (1, 2, 3)] == [bpf.errno(1), bpf.errno(1), bpf.ALLOW]


def test_unknown_calls_and_rules_that_say_the_default_are_passed_over() -> None:
    program = assemble(with_rules(rule("no_such_call", "getpid"), rule("getppid", action="SCMP_ACT_ALLOW")))
    assert bpf.run(program, GETPID) == bpf.errno(1)


def test_a_permissive_default_lets_newer_calls_through() -> None:
    assert bpf.run(assemble(with_rules(rule("getpid"))), 900) == bpf.ALLOW


def test_killing_profiles_answer_newer_calls_with_enosys() -> None:
    killing = Seccomp(
        default_action="SCMP_ACT_KILL_PROCESS",
        architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
        syscalls=(rule("getpid", "fchmodat", action="SCMP_ACT_ALLOW"),),
    )
    program = assemble(killing)
    assert bpf.run(program, 900) == bpf.errno(38)
    assert bpf.run(program, GETPID) == bpf.ALLOW
    assert bpf.run(program, GETPID + 1) == bpf.KILL_PROCESS
    # x32 is not covered, and so a foreign architecture
    assert bpf.run(program, 0x40000000 | GETPID) == bpf.KILL_THREAD


BAD: list[tuple[Seccomp, str]] = [
    (Seccomp(default_action="ALLOW"), r"linux\.seccomp\.defaultAction: unknown action 'ALLOW'"),
    (Seccomp(default_action="SCMP_ACT_NOTIFY"), r"defaultAction: SCMP_ACT_NOTIFY cannot be the default"),
    (
        Seccomp(default_action="SCMP_ACT_ALLOW", default_errno_ret=1),
        r"defaultErrnoRet: SCMP_ACT_ALLOW carries no errno",
    ),
    (msgspec.structs.replace(ALLOW_ALL, architectures=("x86",)), r"architectures\[0\]: unknown architecture 'x86'"),
    (with_rules(rule("getpid", action="DENY")), r"syscalls\[0\]\.action: unknown action 'DENY'"),
    (with_rules(rule("getpid", errno_ret=4096)), r"syscalls\[0\]\.errnoRet: 4096 is not between 0 and 4095"),
    (
        with_rules(rule("getpid", action="SCMP_ACT_LOG", errno_ret=1)),
        r"syscalls\[0\]\.errnoRet: SCMP_ACT_LOG carries no",
    ),
    (with_rules(rule()), r"syscalls\[0\]\.names: empty"),
    (with_rules(rule("getpid", "")), r"syscalls\[0\]\.names\[1\]"),
    (
        with_rules(rule("a"), rule("b", action="SCMP_ACT_NOTIFY")),
        r"syscalls\[1\]\.action: SCMP_ACT_NOTIFY needs listenerPath",
    ),
    (
        with_rules(rule("a", args=(SeccompArg(index=6, value=0, op="SCMP_CMP_EQ"),))),
        r"args\[0\]\.index: 6 is not between",
    ),
    (with_rules(rule("a", args=(SeccompArg(index=0, value=0, op="EQ"),))), r"args\[0\]\.op: unknown operator 'EQ'"),
    (
        with_rules(rule("a", args=(SeccompArg(index=0, value=-1, op="SCMP_CMP_EQ"),))),
        r"args\[0\]\.value: -1 does not fit",
    ),
    (msgspec.structs.replace(ALLOW_ALL, listener_metadata="x"), r"listenerMetadata: needs listenerPath"),
]


@pytest.mark.parametrize(("seccomp", "message"), BAD)
def test_wrong_input_is_refused_by_path(seccomp: Seccomp, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        assemble(seccomp)


def test_notify_for_write_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="cannot be used for the write syscall"):
        assemble(with_rules(rule("write", action="SCMP_ACT_NOTIFY"), listener_path="/a"))


def test_unknown_flag_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.seccomp\.flags\[0\]: unknown flag 'FAST'"):
        flags(msgspec.structs.replace(ALLOW_ALL, flags=("FAST",)))


@given(st.lists(st.sampled_from(["getpid", "read", "write", "clone", "mmap", "openat"]), min_size=1, unique=True))
def test_only_named_calls_are_allowed(names: list[str]) -> None:
    program = assemble(
        Seccomp(
            default_action="SCMP_ACT_ERRNO",
            architectures=("SCMP_ARCH_X86_64",),
            syscalls=(rule(*names, action="SCMP_ACT_ALLOW"),),
        )
    )
    numbers = {libseccomp.resolve(name, bpf.X86_64) for name in names}
    for number in range(max(numbers) + 1):
        assert bpf.run(program, number) == (bpf.ALLOW if number in numbers else bpf.errno(1))
    assert bpf.run(program, max(numbers) + 1) == bpf.errno(38)


@pytest.mark.root
def test_the_kernel_takes_the_program() -> None:
    """In a child, through prctl(2): a call that the profile refuses fails, the others go on."""
    import subprocess
    import sys

    from orlop.seccomp.default import default_profile
    from orlop.spec.capabilities import DEFAULT

    program = assemble(default_profile(DEFAULT, os.uname().machine, (6, 1)))
    script = """
import ctypes, sys, errno
code = bytes.fromhex(sys.argv[1])
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))
libc = ctypes.CDLL(None, use_errno=True)
program = Program(len(code) // 8, code)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
assert libc.unshare(0x20000) == -1 and ctypes.get_errno() == errno.EPERM
import os
assert os.fork() >= 0
"""
    done = subprocess.run([sys.executable, "-c", script, program.hex()], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert len(program) < 8 * 4096
    assert struct.calcsize("=HBBI") == 8
