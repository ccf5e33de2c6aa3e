"""`exec --cgroup`: which groups below a container's own a further process is to join, in the words of the command line.

    PATH                        in every hierarchy that has it; in the others the process joins the container's group
    CONTROLLER[,...]:PATH       in the v1 hierarchies of these controllers; may be given several times

A path starts at the container's group, which is `/`. A group that is named must be there, in one hierarchy at least.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from orlop.cgroups.facts import CgroupHost, Group
from orlop.spec.errors import InvalidArgument, NotFound

_EVERY = ""  # in place of a controller


def subgroup_paths(host: CgroupHost, path: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """The `cgroup.procs` files through which a process joins the groups that are `wanted` below `path`."""
    below = parse(wanted)
    for controller in below:
        if controller != _EVERY and controller not in host.mounts:
            raise InvalidArgument(f"--cgroup: unknown controller {controller[:40]!r}: not of cgroup v1 on this host")
    directories = Group(host, path).directories
    everywhere = below.get(_EVERY, "")
    if everywhere and not any(os.path.isdir(directory + everywhere) for directory in directories):
        raise _missing(directories[0], everywhere)
    return tuple(_entry(host, directory, below) for directory in directories)


def parse(wanted: Sequence[str]) -> dict[str, str]:
    """Controllers, or an empty name for all, to paths that are clean: empty, or begin with a slash."""
    below: dict[str, str] = {}
    for text in wanted:
        controllers, colon, path = text.rpartition(":")
        if not colon and len(wanted) > 1:
            raise InvalidArgument(f"--cgroup: {text[:80]!r} names no controller, and is not the only one")
        for controller in controllers.split(","):
            if controller in below or (colon and not controller):
                raise InvalidArgument(f"--cgroup: {text[:80]!r}: a controller is empty or there twice")
            below[controller] = _clean(path)
    return below


def _clean(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        shown = path[:80] if path.isprintable() else repr(path[:80])
        raise InvalidArgument(
            f"--cgroup: {shown} is not a sub cgroup path: `..` components are not allowed, nor a NUL character"
        )
    return "".join(f"/{part}" for part in parts)


def _entry(host: CgroupHost, directory: str, below: dict[str, str]) -> str:
    """The file of one hierarchy, of which `directory` is the container's group."""
    names = [name for name, mount in host.mounts.items() if directory.startswith(f"{mount}/")]
    name = next((name for name in (*names, _EVERY) if name in below), _EVERY)
    path = below.get(name, "")
    if path and not os.path.isdir(directory + path):
        if name != _EVERY:
            raise _missing(directory, path)
        path = ""
    return f"{directory}{path}/cgroup.procs"


def _missing(directory: str, path: str) -> NotFound:
    reason = f"adding pid through {directory}{path}/cgroup.procs: no such file or directory"
    return NotFound(f"--cgroup: the container has no group {path}: {reason}")
