"""Seccomp rules into a program for the kernel (config-linux.md, "Seccomp"; seccomp(2)).

`assemble` checks every field, has libseccomp turn the rules into BPF, and puts a few instructions of its own in
front: a call that is newer than every call that the rules name is answered with ENOSYS, as an old kernel would, so that
programs fall back instead of failing. The pure part of this module is all but the one use of the library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import msgspec

from orlop.spec.errors import InvalidArgument, Unimplemented
from orlop.spec.runtime import Seccomp, SeccompArg, SeccompRule

# raised whenever the same rules give another program; assembled programs are kept under it
VERSION = "1"

# seccomp.h; the lower 16 bits of ERRNO and TRACE carry a value
ACTIONS: dict[str, int] = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
# the largest value that an action can carry; the kernel caps an errno at MAX_ERRNO
_VALUE_LIMIT = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 0xFFFF}
_EPERM, _ENOSYS = 1, 38
# with these a newer call is not refused anyway, or a tracer or listener has its own way with it
_PERMISSIVE = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"})

OPERATORS: dict[str, int] = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

# audit.h: machine number, 64-bit bit 31, little-endian bit 30
_X86_64, _X32_BIT = 0xC000003E, 0x40000000
ARCHITECTURES: dict[str, int] = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": _X86_64,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
    "SCMP_ARCH_M68K": 0x00000004,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_PARISC": 0x0000000F,
    "SCMP_ARCH_PARISC64": 0x8000000F,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_SH": 0x4000002A,
    "SCMP_ARCH_SHEB": 0x0000002A,
}

# seccomp(2), SECCOMP_SET_MODE_FILTER
FLAGS: dict[str, int] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
NEW_LISTENER = 8
_TSYNC, _TSYNC_ESRCH, _WAIT_KILLABLE = 1, 16, 32

_WHERE = "linux.seccomp"
_Compare = tuple[int, int, int, int]


class Rule(msgspec.Struct, frozen=True):
    """One checked rule: an action's number, a name, and the comparisons that must all hold."""

    action: int
    name: str
    compares: tuple[_Compare, ...]
    origin: str


def flags(seccomp: Seccomp) -> int:
    """The flags for seccomp(2); `NEW_LISTENER` is among them where a rule notifies, or an agent is named: it is told
    of every container, as with crun, and has nothing to do where no rule notifies."""
    bits = 0
    for index, name in enumerate(seccomp.flags):
        if name not in FLAGS:
            raise InvalidArgument(f"{_WHERE}.flags[{index}]: unknown flag {name[:64]!r}")
        bits |= FLAGS[name]
    if seccomp.listener_path or any(rule.action == "SCMP_ACT_NOTIFY" for rule in seccomp.syscalls):
        bits |= NEW_LISTENER
        if bits & _TSYNC:  # the kernel takes both only with the third (Linux 5.7)
            bits |= _TSYNC_ESRCH
    elif bits & _WAIT_KILLABLE:  # the kernel refuses it without a listener
        bits &= ~_WAIT_KILLABLE
    return bits


def assemble(seccomp: Seccomp) -> bytes:
    """The program (`struct sock_filter` array) for the rules.

    Raises InvalidArgument with the JSON path of what is wrong, and Unimplemented where libseccomp is missing or too
    old for a part of it. Names of calls that libseccomp does not know are passed over.
    """
    from orlop.sys import libseccomp

    default, architectures, rules = _default(seccomp), _architectures(seccomp), tuple(_checked(seccomp))
    try:
        with libseccomp.Filter(default) as building:
            for index, arch in enumerate(architectures):
                _within(f"architectures[{index}]", building.add_arch, arch)
            if len(rules) > 32:  # a binary tree instead of a list that each call would run through
                building.set(libseccomp.OPTIMIZE, 2)
            for rule in rules:
                number = libseccomp.resolve(rule.name)
                if number != libseccomp.UNKNOWN and rule.action != default:
                    _within(rule.origin, building.add_rule, rule.action, number, rule.compares)
            program = building.program()
        # the library covers its own architecture also where it is not named
        covered = (libseccomp.native_arch(), *architectures)
        return _newer_calls(seccomp, _last_calls(rules, covered)) + program
    except OSError as error:
        raise Unimplemented(f"{_WHERE}: libseccomp: {error.strerror or error}") from error


def refuse_unknown(seccomp: Seccomp) -> None:
    """Raise InvalidArgument for the first name of a call that libseccomp does not know, whatever the architecture."""
    from orlop.sys import libseccomp

    for index, rule in enumerate(seccomp.syscalls):
        for place, name in enumerate(rule.names):
            try:
                known = libseccomp.resolve(name) != libseccomp.UNKNOWN
            except OSError as error:
                raise Unimplemented(f"{_WHERE}: libseccomp: {error.strerror or error}") from error
            if not known:
                raise InvalidArgument(f"{_WHERE}.syscalls[{index}].names[{place}]: unknown system call {name[:64]!r}")


def _within(where: str, act: Callable[..., None], *arguments: object) -> None:
    """Call `act`; a refusal of the library becomes an error at a JSON path."""
    try:
        act(*arguments)
    except OSError as error:
        raise InvalidArgument(f"{_WHERE}.{where}: refused by libseccomp: {error.strerror}") from None


def _default(seccomp: Seccomp) -> int:
    if seccomp.default_action == "SCMP_ACT_NOTIFY":
        raise InvalidArgument(f"{_WHERE}.defaultAction: SCMP_ACT_NOTIFY cannot be the default")
    if seccomp.listener_metadata and not seccomp.listener_path:
        raise InvalidArgument(f"{_WHERE}.listenerMetadata: needs listenerPath")
    return _action(seccomp.default_action, seccomp.default_errno_ret, "defaultAction", "defaultErrnoRet")


def _action(name: str, value: int | None, where: str, value_where: str) -> int:
    """An action's number with its value; without one, ERRNO and TRACE carry EPERM (config-linux.md)."""
    if name not in ACTIONS:
        raise InvalidArgument(f"{_WHERE}.{where}: unknown action {name[:64]!r}")
    limit = _VALUE_LIMIT.get(name)
    if limit is None:
        if value is not None:
            raise InvalidArgument(f"{_WHERE}.{value_where}: {name} carries no errno")
        return ACTIONS[name]
    if value is not None and not 0 <= value <= limit:
        raise InvalidArgument(f"{_WHERE}.{value_where}: {value} is not between 0 and {limit}")
    return ACTIONS[name] | (_EPERM if value is None else value)


def _architectures(seccomp: Seccomp) -> tuple[int, ...]:
    for index, name in enumerate(seccomp.architectures):
        if name not in ARCHITECTURES:
            raise InvalidArgument(f"{_WHERE}.architectures[{index}]: unknown architecture {name[:64]!r}")
    return tuple(ARCHITECTURES[name] for name in seccomp.architectures)


def _checked(seccomp: Seccomp) -> Iterator[Rule]:
    for index, rule in enumerate(seccomp.syscalls):
        where = f"syscalls[{index}]"
        action = _action(rule.action, rule.errno_ret, f"{where}.action", f"{where}.errnoRet")
        _check_rule(seccomp, rule, where)
        for name in rule.names:
            for compares in _alternatives(rule.args, where):
                yield Rule(action, name, compares, where)


def _check_rule(seccomp: Seccomp, rule: SeccompRule, where: str) -> None:
    if not rule.names:
        raise InvalidArgument(f"{_WHERE}.{where}.names: empty")
    for index, name in enumerate(rule.names):
        if not name or "\0" in name:
            raise InvalidArgument(f"{_WHERE}.{where}.names[{index}]: not a system call's name")
    if rule.action == "SCMP_ACT_NOTIFY":
        if not seccomp.listener_path:
            raise InvalidArgument(f"{_WHERE}.{where}.action: SCMP_ACT_NOTIFY needs listenerPath")
        for name in ("write", "sendmsg"):
            # whoever installs the filter hands the listener over with these, under the filter
            if name in rule.names:
                raise InvalidArgument(f"{_WHERE}.{where}.names: SCMP_ACT_NOTIFY cannot be used for the {name} syscall")


def _alternatives(args: tuple[SeccompArg, ...], where: str) -> tuple[tuple[_Compare, ...], ...]:
    """The sets of comparisons of which one must hold.

    A rule can compare an argument once. Where `args` names one twice, each comparison becomes a rule of its own, as
    the other runtimes do it.
    """
    compares = tuple(_compare(arg, f"{where}.args[{index}]") for index, arg in enumerate(args))
    if len({compare[0] for compare in compares}) < len(compares):
        return tuple((compare,) for compare in compares)
    return (compares,)


def _compare(arg: SeccompArg, where: str) -> _Compare:
    if not 0 <= arg.index <= 5:
        raise InvalidArgument(f"{_WHERE}.{where}.index: {arg.index} is not between 0 and 5")
    if arg.op not in OPERATORS:
        raise InvalidArgument(f"{_WHERE}.{where}.op: unknown operator {arg.op[:64]!r}")
    for name, value in (("value", arg.value), ("valueTwo", arg.value_two)):
        if not 0 <= value < 1 << 64:
            raise InvalidArgument(f"{_WHERE}.{where}.{name}: {value} does not fit 64 bits")
    return arg.index, OPERATORS[arg.op], arg.value, arg.value_two


def _last_calls(rules: tuple[Rule, ...], architectures: tuple[int, ...]) -> dict[int, int]:
    """{architecture: the largest number of a call that the rules name}, without those that have none."""
    from orlop.sys import libseccomp

    names = {rule.name for rule in rules}
    last = {arch: max((libseccomp.resolve(name, arch) for name in names), default=-1) for arch in architectures}
    return {arch: number for arch, number in last.items() if number >= 0}


# BPF: load a word of struct seccomp_data, compare, jump, return (linux/bpf_common.h)
_LOAD, _JUMP, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCH = 0, 4
_Instruction = tuple[int, int, int, int]


def _newer_calls(seccomp: Seccomp, last: dict[int, int]) -> bytes:
    """Instructions that answer ENOSYS to calls above `last`, and go on to the filter with all others."""
    permissive = seccomp.default_action in _PERMISSIVE
    if permissive or (seccomp.default_action == "SCMP_ACT_ERRNO" and seccomp.default_errno_ret == _ENOSYS):
        return b""
    x32 = last.get(ARCHITECTURES["SCMP_ARCH_X32"])
    sections = [
        _section(arch, number, x32 if arch == _X86_64 else None)
        for arch, number in last.items()
        if arch != ARCHITECTURES["SCMP_ARCH_X32"]
    ]
    code: list[_Instruction] = []
    for section in reversed(sections):
        # each section ends in a jump over all that follows it
        code = [*section, (_JUMP, 0, 0, len(code)), *code]
    if code:
        code.insert(0, (_LOAD, 0, 0, _ARCH))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _section(arch: int, last: int, x32: int | None) -> list[_Instruction]:
    """The part for one architecture: entered with the architecture loaded, left downwards with the number loaded, or
    past its closing jump with the architecture still loaded.

    x32 has the audit number of x86-64 and bit 30 in its call numbers. Where x32 is not covered, such numbers are left
    to the filter, which treats them as a foreign architecture's.
    """
    refuse = (_RETURN, 0, 0, ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS)
    if arch != _X86_64:
        return [(_EQUAL, 0, 4, arch), (_LOAD, 0, 0, _NUMBER), (_GREATER, 0, 1, last), refuse]
    body = [
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 2, 0, _X32_BIT),
        (_GREATER, 0, 1 if x32 is None else 3, last),
        refuse,
    ]
    if x32 is not None:
        body += [(_GREATER, 0, 1, x32), refuse]
    return [(_EQUAL, 0, len(body) + 1, arch), *body]
