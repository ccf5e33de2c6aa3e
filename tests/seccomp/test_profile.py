from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.seccomp.profile import parse_profile
from orlop.spec.errors import InvalidArgument, OrlopError
from orlop.spec.runtime import Seccomp


def parse(
    profile: Any, held: tuple[str, ...] = (), machine: str = "x86_64", kernel: tuple[int, int] = (6, 1)
) -> Seccomp:
    return parse_profile(json.dumps(profile).encode(), held, machine, kernel)


def counted(rule: dict[str, Any], **more: Any) -> bool:
    full = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": None, "comment": "", **rule}
    return bool(parse({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [full]}, **more).syscalls)


def test_the_specifications_form_is_read() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 5,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 18446744073709551615, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}],
            }
        ],
    }
    seccomp = parse(profile)
    assert seccomp.default_errno_ret == 5
    assert seccomp.architectures == ("SCMP_ARCH_X86_64",)
    assert seccomp.flags == ("SECCOMP_FILTER_FLAG_LOG",)
    assert seccomp.syscalls[0].args[0].value == (1 << 64) - 1
    assert seccomp.syscalls[0].args[0].value_two == 1


def test_the_old_single_name_is_read() -> None:
    rule = {"name": "read", "action": "SCMP_ACT_ALLOW"}
    assert parse({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}).syscalls[0].names == ("read",)


@pytest.mark.parametrize(("machine", "want"), [("x86_64", ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")), ("riscv64", ())])
def test_arch_map_gives_the_machines_architectures(machine: str, want: tuple[str, ...]) -> None:
    arch_map = [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
    ]
    assert parse({"defaultAction": "SCMP_ACT_ERRNO", "archMap": arch_map}, machine=machine).architectures == want


def test_includes_need_every_capability() -> None:
    both = {"includes": {"caps": ["CAP_BPF", "CAP_PERFMON"]}}
    assert not counted(both, held=("CAP_BPF",))
    assert counted(both, held=("CAP_BPF", "CAP_PERFMON"))


def test_excludes_need_one() -> None:
    either = {"excludes": {"caps": ["CAP_BPF", "CAP_PERFMON"]}}
    assert not counted(either, held=("CAP_BPF",))
    assert counted(either)


def test_conditions_on_machine_and_kernel() -> None:
    assert counted({"includes": {"arches": ["amd64", "x32"]}})
    assert not counted({"includes": {"arches": ["arm64"]}})
    assert not counted({"excludes": {"arches": ["amd64"]}})
    assert counted({"includes": {"minKernel": "4.8"}})
    assert not counted({"includes": {"minKernel": "4.8"}}, kernel=(4, 7))
    assert not counted({"includes": {"minKernel": "6.2"}})
    assert not counted({"excludes": {"minKernel": "4.8"}})


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({}, "missing required field `defaultAction`"),
        ([], "expected `object`"),
        ({"defaultAction": 1}, r"\$\.defaultAction: expected `str`"),
        ({"defaultAction": "A", "architectures": ["x"], "archMap": [{"architecture": "y"}]}, "not both"),
        (
            {"defaultAction": "A", "syscalls": [{"name": "a", "names": ["b"], "action": "A"}]},
            r"syscalls\[0\].*not both",
        ),
        ({"defaultAction": "A", "syscalls": [{"names": ["b"]}]}, "missing required field `action`"),
        (
            {"defaultAction": "A", "syscalls": [{"names": ["b"], "action": "A", "excludes": {"caps": ["SYS_ADMIN"]}}]},
            r"\$\.syscalls\[0\]\.excludes\.caps\[0\]: unknown capability 'SYS_ADMIN'",
        ),
        (
            {"defaultAction": "A", "syscalls": [{"names": ["b"], "action": "A", "includes": {"minKernel": "new"}}]},
            "'new' is not a version",
        ),
    ],
)
def test_wrong_profiles_are_refused_by_path(profile: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(profile)


@given(st.binary(max_size=300))
def test_any_bytes_give_rules_or_one_line(raw: bytes) -> None:
    try:
        parse_profile(raw, (), "x86_64", (6, 1))
    except OrlopError as error:
        assert "\n" not in str(error)  # noqa: PT017
