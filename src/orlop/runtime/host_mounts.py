"""Mounts of a container that has no mount namespace of its own: they are in the host's, in a copy of the root that lies
over the root (`compile_mounts.covering_root`), and are taken away with it.

Whatever was mounted at the root before is somebody else's and stays. What is bound from the host becomes private first,
so that none of the host's own mounts goes with it (mount_namespaces(7), "Propagation").
"""

from __future__ import annotations

import os
from collections.abc import Callable

from orlop.cgroups.facts import unescape
from orlop.cgroups.files import read
from orlop.runtime.children import children
from orlop.runtime.compile_layout import NONE
from orlop.runtime.launch import launch
from orlop.runtime.mount_options import MS_PRIVATE, MS_REC
from orlop.runtime.ops import Exit, Propagation, Umount
from orlop.runtime.plan import Plan, Stage, Step
from orlop.runtime.state import HostRoot

_DETACH, _NOFOLLOW = 2, 8


def found(rootfs: str) -> HostRoot:
    """What is mounted at the root now."""
    return HostRoot(os.stat("/proc/self/ns/mnt").st_ino, at(read("/proc/self/mountinfo"), os.path.realpath(rootfs)))


def at(mountinfo: str, path: str) -> tuple[int, ...]:
    """The ids of the mounts at a path (proc_pid_mountinfo(5))."""
    lines = (line.split(" ", 5) for line in mountinfo.splitlines())
    return tuple(int(fields[0]) for fields in lines if unescape(fields[4]) == path)


def take_back(rootfs: str, before: HostRoot, warn: Callable[[str], None]) -> None:
    """Take away what has been mounted at the root since. Can be repeated."""
    now = found(rootfs)
    ours = set(now.before) - set(before.before)
    if now.namespace != before.namespace:
        warn(f"root.path: the mounts at {rootfs} are in another mount namespace; delete the container there")
        return
    path, origin = os.path.realpath(rootfs), f"root.path ({rootfs})"
    for _ in ours:
        steps = (Propagation(NONE, path, MS_PRIVATE | MS_REC), Umount(NONE, path, _DETACH | _NOFOLLOW), Exit(0))
        plan = Plan((Stage("host", tuple(Step(op, origin) for op in steps)),))
        children().wait(launch(plan).pid)
