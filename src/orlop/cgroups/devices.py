"""Which devices a container may use: rules into v1 writes or a v2 program (config-linux.md, "Allowed Device List").

A request names a device and what it wants: read, write, mknod, or several. For each of these the last rule that
speaks of it decides, and where none does, the answer is no. A runtime's own devices (null, zero, ..., the terminals)
are always allowed, and so is making any node, which gives no use of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from orlop.cgroups.write import Write
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import DeviceCgroup

WHERE = "linux.resources.devices"
# linux/bpf.h: BPF_DEVCG_ACC_* and BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPES = {"b": 1, "c": 2}
_ALL_ACCESS = 7


class Rule(msgspec.Struct, frozen=True):
    """A checked rule: `type` is b, c, or a for all devices and accesses; None stands for every number."""

    allow: bool
    type: str
    major: int | None
    minor: int | None
    access: int
    origin: str

    def covers(self, other: Rule) -> bool:
        """Whether every device of `other` is one of this rule's."""
        return self.type == other.type and self.major in (None, other.major) and self.minor in (None, other.minor)

    def overlaps(self, other: Rule) -> bool:
        return (
            self.type == other.type
            and (self.major is None or other.major is None or self.major == other.major)
            and (self.minor is None or other.minor is None or self.minor == other.minor)
            and bool(self.access & other.access)
        )

    def __str__(self) -> str:
        numbers = ":".join("*" if number is None else str(number) for number in (self.major, self.minor))
        return f"{self.type} {numbers} {letters(self.access)}"


def letters(access: int) -> str:
    """`rwm`, or what of it the bits say."""
    return "".join(letter for letter in "rwm" if access & _ACCESS[letter])


def _always(type_: str, major: int | None, minor: int | None, access: str) -> Rule:
    bits = sum(_ACCESS[letter] for letter in access)
    return Rule(True, type_, major, minor, bits, f"{WHERE} (default devices)")


# config-linux.md, "Default Devices", with the pseudo-terminals and mknod
DEFAULT_RULES: tuple[Rule, ...] = (
    _always("c", None, None, "m"),
    _always("b", None, None, "m"),
    *(_always("c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),  # null, zero, full, random, urandom
    *(_always("c", 5, minor, "rwm") for minor in (0, 1, 2)),  # tty, console, ptmx
    _always("c", 136, None, "rwm"),  # /dev/pts
)


def rules(devices: tuple[DeviceCgroup, ...]) -> tuple[Rule, ...]:
    """The checked rules in their order, then the default devices'. A rule for some devices of all types
    becomes one for each type."""
    return (*(rule for index, device in enumerate(devices) for rule in _checked(device, index)), *DEFAULT_RULES)


def _checked(device: DeviceCgroup, index: int) -> Iterator[Rule]:
    where = f"{WHERE}[{index}]"
    kind = device.type or "a"
    if kind not in ("a", "b", "c"):
        raise InvalidArgument(f"{where}.type: {kind[:16]!r} is not a, b or c")
    access = device.access or "rwm"
    if set(access) - set("rwm"):
        raise InvalidArgument(f"{where}.access: {access[:16]!r} is not made of r, w and m")
    numbers = [_device_number(n, f"{where}.{name}") for name, n in (("major", device.major), ("minor", device.minor))]
    bits = sum(_ACCESS[letter] for letter in set(access))
    every = kind == "a" and bits == _ALL_ACCESS and numbers == [None, None]
    for type_ in ("b", "c") if kind == "a" and not every else (kind,):
        yield Rule(device.allow, type_, numbers[0], numbers[1], bits, where)


def _device_number(number: int | None, where: str) -> int | None:
    if number is None or number == -1:  # -1 is what Go programs write for "all"
        return None
    if not 0 <= number < 1 << 32:
        raise InvalidArgument(f"{where}: {number} is not a device number")
    return number


# --- v1


@lru_cache(16)
def device_writes(devices: tuple[DeviceCgroup, ...]) -> tuple[Write, ...]:
    """Writes to devices.deny and devices.allow that bring a group from whatever it has to what the rules say.

    A v1 group has one answer for all devices and a list of exceptions from it, and takes away an exception only as a
    whole: denying a part of what an earlier rule allows would silently do nothing. Such lists are refused.
    """
    answer, exceptions = False, list[Rule]()
    for rule in rules(devices):
        if rule.type == "a":
            answer, exceptions = rule.allow, []
        elif rule.allow == answer:
            exceptions = [left for kept in exceptions if (left := _without(kept, rule)) is not None]
        elif not any(kept.covers(rule) and not rule.access & ~kept.access for kept in exceptions):
            exceptions.append(rule)
    return (
        Write("devices", "devices.allow" if answer else "devices.deny", "a", WHERE),
        *(Write("devices", "devices.allow" if r.allow else "devices.deny", str(r), r.origin) for r in exceptions),
    )


def _without(exception: Rule, rule: Rule) -> Rule | None:
    """What is left of an exception after a later rule that says the opposite."""
    if not exception.overlaps(rule):
        return exception
    if not rule.covers(exception):
        raise FailedPrecondition(
            f"{rule.origin}: cgroup v1 cannot {'allow' if rule.allow else 'deny'} {rule}, a part of what "
            f"{exception.origin} {'allows' if exception.allow else 'denies'} with {exception}"
        )
    access = exception.access & ~rule.access
    return msgspec.structs.replace(exception, access=access) if access else None


# --- v2

# eBPF (linux/bpf.h): opcodes, registers r0 result, r1 context, r2 type, r3 wanted access, r4 major, r5 minor
_LOAD_W, _MOV_X, _MOV_K, _AND_K, _RSH_K, _EXIT = 0x61, 0xBC, 0xB4, 0x54, 0x74, 0x95
_JNE_K, _JSET_K, _JNE32_K, _JUMP = 0x55, 0x45, 0x56, 0x05
_R0, _R1, _R2, _R3, _R4, _R5 = range(6)
_Instruction = tuple[int, int, int, int, int]  # code, destination, source, offset, immediate


def program(devices: tuple[DeviceCgroup, ...]) -> bytes:
    """The BPF_PROG_TYPE_CGROUP_DEVICE program (8 bytes an instruction): 1 allows, 0 denies.

    Rules are tried last to first. One that allows takes its accesses off the list of those still wanted; one that
    denies any of those ends in no. When nothing is wanted any more, the answer is yes.
    """
    code: list[_Instruction] = [
        # struct bpf_cgroup_dev_ctx: access_type ((access << 16) | type), major, minor
        (_LOAD_W, _R2, _R1, 0, 0),
        (_MOV_X, _R3, _R2, 0, 0),
        (_AND_K, _R2, 0, 0, 0xFFFF),
        (_RSH_K, _R3, 0, 0, 16),
        (_LOAD_W, _R4, _R1, 4, 0),
        (_LOAD_W, _R5, _R1, 8, 0),
    ]
    for rule in reversed(rules(devices)):
        code += _block(rule)
        if rule.type == "a":  # nothing is left for earlier rules to decide
            break
    code += _answer(0)
    return b"".join(
        struct.pack("=BBhi", op, source << 4 | target, offset, _signed(value))
        for op, target, source, offset, value in code
    )


def _block(rule: Rule) -> list[_Instruction]:
    if rule.allow:
        body = [(_AND_K, _R3, 0, 0, ~rule.access & _ALL_ACCESS), (_JNE_K, _R3, 0, 2, 0), *_answer(1)]
    else:
        body = [(_JSET_K, _R3, 0, 1, rule.access), (_JUMP, 0, 0, 2, 0), *_answer(0)]
    tests = [(_R2, _TYPES[rule.type])] if rule.type in _TYPES else []
    tests += [(register, n) for register, n in ((_R4, rule.major), (_R5, rule.minor)) if n is not None]
    block: list[_Instruction] = []
    for index, (register, number) in enumerate(tests):
        # over the tests still to come and the body
        block.append((_JNE32_K, register, 0, len(tests) - index - 1 + len(body), number))
    return block + body


def _answer(value: int) -> list[_Instruction]:
    return [(_MOV_K, _R0, 0, 0, value), (_EXIT, 0, 0, 0, 0)]


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value
