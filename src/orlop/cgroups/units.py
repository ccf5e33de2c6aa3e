"""Units of systemd that are containers' groups: how a configuration names them, and where they are. Pure.

With systemd, linux.cgroupsPath is `SLICE:PREFIX:NAME`: the scope `PREFIX-NAME.scope` in that slice. A NAME that ends in
`.slice` is a slice of its own, without processes until the container's comes. Of systemd.slice(5): a slice `a-b.slice`
is in `a.slice`, and `-.slice` is the root of all.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from orlop.spec.errors import InvalidArgument

Bus = Literal["system", "user"]  # which manager has it: the machine's, or the user's own
PREFIX = "orlop"
_DEFAULT_SLICE: dict[Bus, str] = {"system": "system.slice", "user": "user.slice"}
_WHERE = "linux.cgroupsPath"
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@")  # systemd.unit(5)
_MOST = 255


class Unit(msgspec.Struct, frozen=True):
    """A scope, or a slice; `slice` is the one that it is in."""

    name: str
    slice: str
    bus: Bus = "system"

    @property
    def is_slice(self) -> bool:
        return self.name.endswith(".slice")

    def group(self, root: str = "") -> str:
        """The group's path in every hierarchy; `root` is the group that the manager itself works below."""
        if self.is_slice:
            return root + expanded(self.name)
        return f"{root}{expanded(self.slice)}/{self.name}"


class Place(msgspec.Struct, frozen=True):
    """Where a container's processes are: `path` in every hierarchy, and `unit` where systemd has made it."""

    path: str
    unit: Unit | None = None

    @property
    def adopted(self) -> bool:
        """Whether it comes into being with the first process in it, which then must be there before."""
        return self.unit is not None

    @property
    def ushered(self) -> bool:
        """Whether only systemd may move processes there: from a user's session into a scope of the user's manager the
        way leads through groups that are not the user's."""
        return self.unit is not None and self.unit.bus == "user"


def unit_of(cgroups_path: str, identifier: str, bus: Bus = "system") -> Unit:
    """The unit of a container. Raises InvalidArgument."""
    slice_, prefix, name = "", PREFIX, identifier
    if cgroups_path:
        parts = cgroups_path.split(":")
        if len(parts) != 3:
            raise InvalidArgument(
                f"{_WHERE}: {cgroups_path[:128]!r} is not slice:prefix:name, as systemd's control groups want it"
            )
        slice_, prefix, name = parts
    slice_ = slice_ or _DEFAULT_SLICE[bus]
    expanded(slice_)
    if name.endswith(".slice"):
        expanded(name)
        return Unit(name, _above(name), bus)
    unit = f"{prefix}-{name}.scope"
    if not name or len(unit) > _MOST or not _CHARACTERS.issuperset(unit):
        raise InvalidArgument(f"{_WHERE}: {unit[:128]!r} is no name of a unit; use letters, digits and :-_.\\@")
    return Unit(unit, slice_, bus)


def expanded(name: str) -> str:
    """The path of a slice: `a-b.slice` is `/a.slice/a-b.slice`."""
    stem = name.removesuffix(".slice")
    if name == "-.slice":
        return ""
    parts = stem.split("-")
    if not name.endswith(".slice") or len(name) > _MOST or not _CHARACTERS.issuperset(name) or not all(parts):
        raise InvalidArgument(f"{_WHERE}: {name[:128]!r} is no name of a slice, such as machine.slice or a-b.slice")
    return "".join(f"/{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))


def _above(name: str) -> str:
    """The slice that a slice is in."""
    above = name.removesuffix(".slice").rpartition("-")[0]
    return f"{above}.slice" if above else "-.slice"
