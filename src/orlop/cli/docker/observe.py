"""What the kernel says of a running container, read from /proc and its control groups."""

from __future__ import annotations

import os

import msgspec

from orlop.cgroups.compile import writes
from orlop.cgroups.facts import CgroupHost, Group
from orlop.cgroups.files import read
from orlop.engine.inspect import Details
from orlop.runtime.namespaces import FILES
from orlop.spec.errors import OrlopError


class Limit(msgspec.Struct, frozen=True):
    """A control file of the container's group, what it holds now, and the field it was set from."""

    path: str
    value: str
    origin: str


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Empty fields: not running, or not to be read."""

    namespaces: dict[str, str] = {}  # type: `pid:[4026532321]`
    own_namespaces: dict[str, str] = {}  # this process's
    groups: tuple[str, ...] = ()  # directories
    limits: tuple[Limit, ...] = ()
    status: dict[str, str] = {}  # lines of /proc/PID/status


def observe(host: CgroupHost, details: Details) -> Observed:
    """Look at a container; one that does not run has nothing to be seen."""
    record = details.container.record
    if not record.pid:
        return Observed()
    group = Group(host, record.cgroup)
    return Observed(
        namespaces=_namespaces(f"/proc/{record.pid}/ns"),
        own_namespaces=_namespaces("/proc/self/ns"),
        groups=tuple(path for path in group.directories if os.path.isdir(path)),
        limits=_limits(host, group, details),
        status=_status(f"/proc/{record.pid}/status"),
    )


def _namespaces(directory: str) -> dict[str, str]:
    found = {}
    for name, file in FILES.items():
        try:
            found[name] = os.readlink(f"{directory}/{file}")
        except OSError:
            continue
    return found


def _limits(host: CgroupHost, group: Group, details: Details) -> tuple[Limit, ...]:
    linux = details.spec.linux if details.spec else None
    try:
        planned = writes(linux.resources if linux else None, host)
    except OrlopError:
        return ()
    found = []
    for write in planned:
        if write.controller == "devices":  # a rule a line, of which the kernel shows the sum
            continue
        for file in (write.file, write.alternative.file if write.alternative else ""):
            path = f"{group.directory(write.controller)}/{file}"
            if file and os.path.exists(path):
                found.append(Limit(path, _read(path), write.origin))
                break
    return tuple(found)


def _read(path: str) -> str:
    try:
        return " ".join(read(path).split())
    except OSError:
        return "?"


def _status(path: str) -> dict[str, str]:
    try:
        text = read(path)
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
