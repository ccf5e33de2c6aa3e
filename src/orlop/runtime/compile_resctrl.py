"""Intel's Resource Director Technology: which groups of resctrl a container gets (config-linux.md, "IntelRdt"). Pure.

A group is a directory below the mounted file system. A class of service (a control group with a `schemata` file) is
named by `closID`, or else made for the container under its id; a monitoring group is made in its `mon_groups`.
"""

from __future__ import annotations

import posixpath

import msgspec

from orlop.spec.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from orlop.spec.runtime import IntelRdt

_WHERE = "linux.intelRdt"
_OF_THE_KERNEL = frozenset({"info", "mon_groups", "mon_data", ".", ".."})
_NAME_MAX = 255


class Groups(msgspec.Struct, frozen=True):
    """Directories to make, and what the schemata file of the class is told, line by line."""

    made: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def check(rdt: IntelRdt) -> None:
    """Refuse wrong values by their JSON path."""
    name = rdt.clos_id
    if name != "/" and ("/" in name or name in _OF_THE_KERNEL or not name.isprintable() or len(name) > _NAME_MAX):
        raise InvalidArgument(f"{_WHERE}.closID: {name[:64]!r} is no name of a class")
    for field, value, start in (
        ("l3CacheSchema", rdt.l3_cache_schema, "L3"),
        ("memBwSchema", rdt.mem_bw_schema, "MB:"),
        *((f"schemata[{index}]", line, "") for index, line in enumerate(rdt.schemata)),
    ):
        if "\n" in value or "\0" in value:
            raise InvalidArgument(f"{_WHERE}.{field}: has more than one line")
        if value and (not value.startswith(start) or ":" not in value):
            raise InvalidArgument(f"{_WHERE}.{field}: {value[:64]!r} is not {start or 'NAME:'}...")


def schemata(rdt: IntelRdt) -> tuple[str, ...]:
    """The lines that are asked for, in the order in which they are to be written."""
    return tuple(line for line in (rdt.l3_cache_schema, rdt.mem_bw_schema, *rdt.schemata) if line)


def directory(rdt: IntelRdt, identifier: str, root: str) -> str:
    """The class of service."""
    return root if rdt.clos_id == "/" else posixpath.join(root, rdt.clos_id or identifier)


def monitoring(rdt: IntelRdt, identifier: str, root: str) -> str:
    """The monitoring group, or an empty string. The fields of 1.2 (`enableCMT`, `enableMBM`) ask for one too."""
    wanted = rdt.enable_monitoring or rdt.enable_cmt or rdt.enable_mbm
    return posixpath.join(directory(rdt, identifier, root), "mon_groups", identifier) if wanted else ""


def joined(rdt: IntelRdt, identifier: str, root: str) -> tuple[str, ...]:
    """Where a process goes, in this order: the kernel takes none into a monitoring group of another class."""
    return tuple(filter(None, (directory(rdt, identifier, root), monitoring(rdt, identifier, root))))


def owned(rdt: IntelRdt, identifier: str, root: str) -> tuple[str, ...]:
    """What goes with the container, the innermost first; a class with a name of its own stays."""
    own = "" if rdt.clos_id else directory(rdt, identifier, root)
    return tuple(filter(None, (monitoring(rdt, identifier, root), own)))


def groups(rdt: IntelRdt, identifier: str, root: str, found: str | None) -> Groups:
    """What is to be made and written. `found` is the schemata file of `directory`, None where that is not there.

    Raises FailedPrecondition where a class that is named is missing, or is another than the configuration says, and
    AlreadyExists for a class of the container's id that someone else has made.
    """
    control, lines = directory(rdt, identifier, root), schemata(rdt)
    if found is None and rdt.clos_id and not lines:
        raise FailedPrecondition(f"{_WHERE}.closID: there is no class {rdt.clos_id[:64]!r} on this host")
    if found is not None and not rdt.clos_id:
        raise AlreadyExists(f"{_WHERE}: {control} is there already; name it with closID to use it")
    if found is not None:
        _check_same(lines, found)
    made = filter(None, ("" if found is not None else control, monitoring(rdt, identifier, root)))
    return Groups(tuple(made), () if found is not None else lines)


def _check_same(lines: tuple[str, ...], found: str) -> None:
    now = dict(_parsed(line) for line in found.splitlines() if ":" in line)
    for line in lines:
        name, wanted = _parsed(line)
        if any(now.get(name, {}).get(domain) != value for domain, value in wanted.items()):
            raise FailedPrecondition(f"{_WHERE}.closID: the class has other schemata than {line[:200]!r}")


def _parsed(line: str) -> tuple[str, dict[str, str]]:
    """A resource's name and what each domain has of it, without the zeros and spaces that the kernel pads with."""
    name, _, rest = line.partition(":")
    pairs = (entry.partition("=") for entry in rest.split(";"))
    return name.strip(), {domain.strip(): value.strip().lower().lstrip("0") for domain, _, value in pairs}
