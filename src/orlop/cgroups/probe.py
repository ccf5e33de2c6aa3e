"""Finds the control groups of this host. Apart from `apply`, because many a caller needs no more than this."""

from __future__ import annotations

import select

from orlop.cgroups.facts import CgroupHost, parse_mountinfo, unified_mount
from orlop.cgroups.files import read
from orlop.spec.errors import from_os

_MOUNTS = "/proc/self/mountinfo"


def probe() -> CgroupHost:
    """What this host has. Raises FailedPrecondition where nothing is mounted."""
    text, point = _kept.now() if _kept is not None else _mounts()
    try:
        controllers = frozenset(read(f"{point}/cgroup.controllers").split()) if point else frozenset[str]()
    except OSError as error:
        raise from_os(error, "read") from error
    return _kept.parsed(text, controllers) if _kept is not None else parse_mountinfo(text, controllers)


def keep(mountinfo: int) -> None:
    """Read the mounts anew only when they have changed, as `mountinfo` tells (proc_pid_mountinfo(5)), which is this
    process's own and stays open. For one that stays in its mount namespace and serves many commands: the kernel takes a
    sixth of a millisecond to write the mounts down."""
    global _kept
    _kept = _Kept(mountinfo)


def _mounts() -> tuple[str, str]:
    text = read(_MOUNTS)
    return text, unified_mount(text)


class _Kept:
    """The mounts as they were read last, and what they came to."""

    def __init__(self, mountinfo: int) -> None:
        self._poll = select.poll()
        self._poll.register(mountinfo, select.POLLPRI)
        self._mounts = _mounts()  # a change from here on is told
        self._host: tuple[str, frozenset[str], CgroupHost] | None = None

    def now(self) -> tuple[str, str]:
        if self._poll.poll(0):  # asked before it is read: a change in between is told again
            self._mounts = _mounts()
        return self._mounts

    def parsed(self, text: str, controllers: frozenset[str]) -> CgroupHost:
        if self._host is None or self._host[:2] != (text, controllers):
            self._host = text, controllers, parse_mountinfo(text, controllers)
        return self._host[2]


_kept: _Kept | None = None
