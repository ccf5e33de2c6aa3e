"""A user's seccomp profile: Docker's JSON (rules with conditions), or the runtime specification's, a part of it.

Docker adds to the specification `archMap`, and for each rule `includes` and `excludes`: the rule counts only where all
conditions of the first hold and none of the second does. Here the conditions are settled, once, for a container.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from orlop.spec.capabilities import BITS
from orlop.spec.document import decode
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import Seccomp, SeccompArg, SeccompRule

MAX_PROFILE = 1 << 20  # bytes
_WHAT = "seccomp profile"

# `uname -m`: (the name in conditions, the name in archMap)
_MACHINES: dict[str, tuple[str, str]] = {
    "i686": ("x86", "SCMP_ARCH_X86"),
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "loongarch64": ("loongarch64", "SCMP_ARCH_LOONGARCH64"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}


class _Part(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class _Condition(_Part, frozen=True, kw_only=True):
    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    min_kernel: str = ""


class _Architecture(_Part, frozen=True, kw_only=True):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class _Rule(_Part, frozen=True, kw_only=True):
    action: str
    name: str = ""
    names: tuple[str, ...] | None = None
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] | None = None
    includes: _Condition | None = None
    excludes: _Condition | None = None


class _Profile(_Part, frozen=True, kw_only=True):
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] | None = None
    arch_map: tuple[_Architecture, ...] | None = None
    flags: tuple[str, ...] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[_Rule, ...] | None = None


def parse_profile(raw: bytes, capabilities: Collection[str], machine: str, kernel: tuple[int, int]) -> Seccomp:
    """The rules of a profile for a container with this bounding set, on this `uname -m` and kernel version.

    Raises InvalidArgument with the JSON path. What the rules say is checked when they are assembled.
    """
    if len(raw) > MAX_PROFILE:
        raise InvalidArgument(f"{_WHAT}: {len(raw)} bytes are more than the limit of {MAX_PROFILE}")
    profile = decode(raw, _Profile, _WHAT)
    if profile.architectures and profile.arch_map:
        raise InvalidArgument(f"{_WHAT}: use either 'architectures' or 'archMap', not both")
    rules = profile.syscalls or ()
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=profile.architectures or _mapped(profile.arch_map or (), machine),
        flags=profile.flags or (),
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=tuple(
            SeccompRule(
                names=_names(rule, index), action=rule.action, errno_ret=rule.errno_ret, args=tuple(rule.args or ())
            )
            for index, rule in enumerate(rules)
            if _counts(rule, index, frozenset(capabilities), machine, kernel)
        ),
    )


def _mapped(arch_map: tuple[_Architecture, ...], machine: str) -> tuple[str, ...]:
    native = _MACHINES.get(machine, ("", ""))[1]
    found = next((entry for entry in arch_map if entry.architecture == native), None)
    return (found.architecture, *(found.sub_architectures or ())) if found else ()


def _names(rule: _Rule, index: int) -> tuple[str, ...]:
    if rule.name and rule.names:
        raise InvalidArgument(f"{_WHAT}: $.syscalls[{index}]: use either 'name' or 'names', not both")
    return (rule.name,) if rule.name else rule.names or ()


def _counts(rule: _Rule, index: int, held: frozenset[str], machine: str, kernel: tuple[int, int]) -> bool:
    name = _MACHINES.get(machine, ("", ""))[0]
    path = f"$.syscalls[{index}]"
    if rule.excludes is not None:
        no = rule.excludes
        _check_capabilities(no, f"{path}.excludes")
        if name in (no.arches or ()) or held & set(no.caps or ()):
            return False
        if no.min_kernel and kernel >= _version(no.min_kernel, f"{path}.excludes"):
            return False
    if rule.includes is not None:
        yes = rule.includes
        _check_capabilities(yes, f"{path}.includes")
        if (yes.arches and name not in yes.arches) or set(yes.caps or ()) - held:
            return False
        if yes.min_kernel and kernel < _version(yes.min_kernel, f"{path}.includes"):
            return False
    return True


def _check_capabilities(condition: _Condition, path: str) -> None:
    # a misspelt name in `excludes` would never hold, and so allow what the author meant to withhold
    for index, capability in enumerate(condition.caps or ()):
        if capability not in BITS:
            raise InvalidArgument(f"{_WHAT}: {path}.caps[{index}]: unknown capability {capability[:64]!r}")


def _version(text: str, path: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit() and len(text) < 16):
        raise InvalidArgument(f"{_WHAT}: {path}.minKernel: {text[:32]!r} is not a version such as 4.8")
    return int(major), int(minor)
