"""Handing controllers down a cgroup v2 tree (admin-guide/cgroup-v2, "Enabling and Disabling", "Top-down Constraint").

A group has a controller where its parent's `cgroup.subtree_control` names it, which takes that the parent has it in
turn. But for the root of all, a group has either processes of its own or groups below it with controllers ("No
Internal Process Constraint").
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.files import read, write_file

_NO_FILES = frozenset({"devices", "freezer", "unified"})  # part of v2 itself, in every group


def enable(host: CgroupHost, path: str) -> None:
    """Hand the controllers of the root down to the group. One that can't be handed down is left out: a limit that
    needs it fails, with what `lacking` says."""
    wanted = host.controllers - _NO_FILES
    for parent in _parents(path):
        file = f"{host.unified}{parent}/cgroup.subtree_control"
        missing = sorted(wanted - set(read(file).split()))
        if not missing:
            continue
        if _is_inner(f"{host.unified}{parent}"):
            return
        if not _write(file, missing):
            for name in missing:
                _write(file, [name])


def _is_inner(directory: str) -> bool:
    """Whether the group has processes and so hands nothing down. The kernel refuses most controllers with EBUSY; with
    those that are left (cpu, pids, ...) it would make the group a threaded one, and groups below it unfit for
    processes ("Threads")."""
    try:
        return os.path.exists(f"{directory}/cgroup.type") and bool(read(f"{directory}/cgroup.procs").strip())
    except OSError:  # EOPNOTSUPP: a threaded group
        return True


def entered(host: CgroupHost, path: str, pid: int) -> str:
    """The group in which a further process may start beside `pid`, which is in `path` or below: `path` itself, but
    where the container has handed its controllers to groups of its own (as systemd does in one), that of `pid`."""
    try:
        if not read(f"{host.unified}{path}/cgroup.subtree_control").strip():
            return path
        line = next((line for line in read(f"/proc/{pid}/cgroup").splitlines() if line.startswith("0::")), "")
    except OSError:  # gone: the start fails with a reason
        return path
    found = line.removeprefix("0::").removesuffix(" (deleted)")
    return found if found.startswith(f"{path}/") and ".." not in found.split("/") else path


def _write(file: str, names: list[str]) -> bool:
    """All of the names take effect, or none."""
    try:
        write_file(file, " ".join(f"+{name}" for name in names))
    except OSError:
        return False
    return True


def _parents(path: str) -> Iterator[str]:
    """The groups above, the root (an empty string) first."""
    parent = ""
    for part in path.strip("/").split("/"):
        yield parent
        parent += f"/{part}"


def lacking(host: CgroupHost, path: str, controller: str) -> str:
    """Why the group does not have the controller, and the remedy; an empty string if it has it."""
    for parent in _parents(path):
        directory = host.unified + parent
        try:
            if controller not in read(f"{directory}/cgroup.controllers").split():
                return f"cgroup {directory} has no {controller} controller; enable it in the groups above"
            if controller not in read(f"{directory}/cgroup.subtree_control").split():
                return _withheld(directory, controller)
        except OSError:  # gone meanwhile
            return ""
    return ""


def _withheld(directory: str, controller: str) -> str:
    if _is_inner(directory):
        return (
            f"cgroup {directory} has processes of its own, so that groups below it get no {controller} controller; "
            "move them into a group below it"
        )
    return (
        f"cgroup {directory} hands no {controller} controller down; write +{controller} to its cgroup.subtree_control"
    )
