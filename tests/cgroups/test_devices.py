from __future__ import annotations

import ebpf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.cgroups.devices import device_writes, program
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import DeviceCgroup

DENY_ALL = DeviceCgroup(allow=False, access="rwm")
ALLOW_ALL = DeviceCgroup(allow=True, access="rwm")


def allow(type_: str, major: int | None, minor: int | None, access: str = "rwm") -> DeviceCgroup:
    return DeviceCgroup(allow=True, type=type_, major=major, minor=minor, access=access)


def deny(type_: str, major: int | None, minor: int | None, access: str = "rwm") -> DeviceCgroup:
    return DeviceCgroup(allow=False, type=type_, major=major, minor=minor, access=access)


def lines(*rules: DeviceCgroup) -> list[str]:
    return [f"{write.file.removeprefix('devices.')} {write.value}" for write in device_writes(rules)]


DEFAULTS = [
    "deny a",
    "allow c *:* m",
    "allow b *:* m",
    *(f"allow c 1:{minor} rwm" for minor in (3, 5, 7, 8, 9)),
    *(f"allow c 5:{minor} rwm" for minor in (0, 1, 2)),
    "allow c 136:* rwm",
]


def test_no_rules_deny_all_but_the_default_devices() -> None:
    assert lines() == lines(DENY_ALL) == DEFAULTS


def test_a_device_is_allowed_beside_the_defaults() -> None:
    got = lines(DENY_ALL, allow("c", 10, 229, "rw"))
    assert got == ["deny a", "allow c 10:229 rw", *DEFAULTS[1:]]


def test_allowing_all_takes_no_exceptions_from_the_defaults() -> None:
    assert lines(ALLOW_ALL) == ["allow a"]
    assert lines(DENY_ALL, ALLOW_ALL) == ["allow a"]


def test_denying_one_of_all() -> None:
    assert lines(ALLOW_ALL, deny("b", 8, None, "w")) == ["allow a", "deny b 8:* w"]


def test_a_later_rule_takes_back_an_earlier_one() -> None:
    assert lines(DENY_ALL, allow("c", 10, 1), deny("c", 10, 1)) == DEFAULTS
    assert lines(DENY_ALL, allow("c", 10, 1), deny("c", 10, None, "w"))[1] == "allow c 10:1 rm"


def test_a_rule_for_some_devices_of_all_types_is_split() -> None:
    assert lines(DENY_ALL, allow("a", 7, None, "r"))[1:3] == ["allow b 7:* r", "allow c 7:* r"]


def test_v1_refuses_to_deny_a_part_which_it_would_silently_not_do() -> None:
    with pytest.raises(FailedPrecondition, match=r"^linux\.resources\.devices\[1\]: cgroup v1 cannot deny c 10:200 w"):
        lines(allow("c", None, None), deny("c", 10, 200, "w"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (allow("x", 1, 1), r"linux\.resources\.devices\[0\]\.type: 'x' is not a, b or c"),
        (allow("c", 1, 1, "rx"), r"devices\[0\]\.access: 'rx' is not made of r, w and m"),
        (allow("c", -2, 1), r"devices\[0\]\.major: -2 is not a device number"),
        (allow("c", 1, 1 << 32), r"devices\[0\]\.minor"),
    ],
)
def test_wrong_rules_are_refused_by_path(rule: DeviceCgroup, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        lines(rule)
    with pytest.raises(InvalidArgument, match=message):
        program((rule,))


def test_program_of_the_defaults() -> None:
    code = program((DENY_ALL,))
    assert ebpf.allows(code, "c", 1, 3, "rw")
    assert ebpf.allows(code, "c", 136, 12, "rw")
    assert ebpf.allows(code, "b", 8, 0, "m")
    assert not ebpf.allows(code, "b", 8, 0, "r")
    assert not ebpf.allows(code, "c", 10, 229, "r")
    assert not ebpf.allows(code, "c", 1, 1, "r")


def test_program_that_allows_all_is_short() -> None:
    code = program((DENY_ALL, ALLOW_ALL))
    assert ebpf.allows(code, "b", 8, 0, "rwm")
    assert ebpf.allows(code, "c", 1, 1, "rwm")


def reference(rules: tuple[DeviceCgroup, ...], type_: str, major: int, minor: int, access: str) -> bool:
    """The last rule that speaks of an access decides."""

    def one(letter: str) -> bool:
        answer = letter == "m" or (type_, major) in (("c", 136),) or (type_, major, minor) in (("c", 1, 3),)
        if answer:
            return True
        for rule in rules:
            fits = rule.type in ("", "a", type_) and rule.major in (None, major) and rule.minor in (None, minor)
            if fits and letter in (rule.access or "rwm"):
                answer = rule.allow
        return answer

    return all(one(letter) for letter in access)


numbers = st.one_of(st.none(), st.integers(0, 3))
rule_lists = st.lists(
    st.builds(
        DeviceCgroup,
        allow=st.booleans(),
        type=st.sampled_from(["", "a", "b", "c"]),
        major=numbers,
        minor=numbers,
        access=st.sampled_from(["", "r", "w", "m", "rw", "rm", "wm", "rwm"]),
    ),
    max_size=6,
).map(tuple)
accesses = st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"])


@settings(max_examples=300)
@given(rule_lists, st.sampled_from("bc"), st.sampled_from([0, 2, 3]), st.integers(0, 2), accesses)
def test_program_answers_as_the_last_rule_says(
    rules: tuple[DeviceCgroup, ...], type_: str, major: int, minor: int, access: str
) -> None:
    assert ebpf.allows(program(rules), type_, major, minor, access) == reference(rules, type_, major, minor, access)


def kernel_v1(writes: list[str], type_: str, major: int, minor: int, access: str) -> bool:
    """The kernel's own v1 lists (security/device_cgroup.c), played through."""
    allow_all = writes[0] == "allow a"
    exceptions = [line.split() for line in writes[1:]]
    assert all((verb == "deny") == allow_all for verb, *_ in exceptions)
    matching = []
    for _, kind, pair, bits in exceptions:
        wanted = pair.split(":")
        if kind == type_ and wanted[0] in ("*", str(major)) and wanted[1] in ("*", str(minor)):
            matching.append(set(bits))
    if allow_all:
        return not any(set(access) & bits for bits in matching)
    return any(set(access) <= bits for bits in matching)


@settings(max_examples=300)
@given(rule_lists, st.sampled_from("bc"), st.sampled_from([0, 2, 3]), st.integers(0, 2), st.sampled_from("rwm"))
def test_v1_lists_answer_the_same_or_are_refused(
    rules: tuple[DeviceCgroup, ...], type_: str, major: int, minor: int, access: str
) -> None:
    try:
        got = lines(*rules)
    except FailedPrecondition:
        return
    assert kernel_v1(got, type_, major, minor, access) == reference(rules, type_, major, minor, access)
