"""Finds the control groups of this host. Apart from `apply`, because many a caller needs no more than this."""

from __future__ import annotations

from orlop.cgroups.facts import CgroupHost, parse_mountinfo, unified_mount
from orlop.cgroups.files import read
from orlop.spec.errors import from_os


def probe() -> CgroupHost:
    """What this host has. Raises FailedPrecondition where nothing is mounted."""
    text = read("/proc/self/mountinfo")
    point = unified_mount(text)
    try:
        controllers = frozenset(read(f"{point}/cgroup.controllers").split()) if point else frozenset[str]()
    except OSError as error:
        raise from_os(error, "read") from error
    return parse_mountinfo(text, controllers)
