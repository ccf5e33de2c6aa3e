"""Where a container's groups may be, for who has not root's rights to all of them.

What such a user may write to depends on what was delegated: of v1 hierarchies some or none, of v2 a subtree (cgroup-v2,
"Delegation"). Without any, a container runs in the groups of its caller, as long as it asks for no limits.
"""

from __future__ import annotations

import os

from orlop.cgroups.facts import CgroupHost, group_path, points, without
from orlop.cgroups.files import read
from orlop.spec.errors import PermissionDenied


def place(
    host: CgroupHost, cgroups_path: str, identifier: str, device_rules: bool, process: str = "self"
) -> tuple[CgroupHost, str]:
    """The hierarchies in which this process may make the group of linux.cgroupsPath, and the group's path, which is
    empty where there are none. On v2, a path that does not start at the mount point starts at the delegated subtree.
    `device_rules`: this process may set some. `process` is where its children start, a name in /proc.

    Raises PermissionDenied for a path that is named and can't be had.
    """
    own = _own(process)
    path = group_path(cgroups_path, identifier, _delegated(host, own) if host.mode == "v2" else "")
    denied = frozenset(point for point in points(host) if not _may_make(point + path))
    if host.unified and not _may_enter(host.unified, own, path):
        denied |= {host.unified}
    needed = [point for point in points(host) if host.mode == "v2" or point != host.unified]
    if cgroups_path and denied.intersection(needed):
        first = next(point for point in needed if point in denied)
        raise PermissionDenied(
            f"linux.cgroupsPath: this user may not make {path[:200]} in {first}; leave it out, or have it delegated"
        )
    return without(host, denied, device_rules), "" if denied.issuperset(needed) else path


def _own(process: str) -> str:
    """The process's v2 group; empty for the root, and `/..` for one outside of the control group namespace."""
    line = next((line for line in read(f"/proc/{process}/cgroup").splitlines() if line.startswith("0::/")), "0::/")
    own = line.removeprefix("0::").rstrip("/")
    return "/.." if own.startswith("/..") or own.endswith(" (deleted)") else own


def _delegated(host: CgroupHost, own: str) -> str:
    """The v2 group above this process's own if this process may make groups there, else its own. Above, because a group
    with processes hands no controllers down."""
    parent = own.rpartition("/")[0]
    candidates = (parent, own) if own != "/.." else ()
    return next((path for path in candidates if path and _may_make(f"{host.unified}{path}/x")), "")


def _may_make(directory: str) -> bool:
    """Whether this process may make this group, with those above it."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return os.access(directory, os.W_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)


def _may_enter(unified: str, own: str, path: str) -> bool:
    """To be moved between v2 groups takes the right to the group that is above both (cgroup-v2, "Delegation
    Containment")."""
    if own == "/..":
        return False
    common = os.path.commonpath((own or "/", path)).rstrip("/")
    return os.access(f"{unified}{common}/cgroup.procs", os.W_OK)
