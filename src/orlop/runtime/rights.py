"""Looks up what only matters to a process that is not root on the machine: see `facts.Host`."""

from __future__ import annotations

import fcntl
import os

_NS_GET_USERNS = 0xB701  # ioctl_ns(2)
_DIRECTORIES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ID_HELPERS = ("newuidmap", "newgidmap")


def owns_mounts() -> bool:
    """Whether the mount namespace of this process belongs to its user namespace."""
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        owner: int = fcntl.ioctl(mounts, _NS_GET_USERNS)
    except PermissionError:  # it belongs to a user namespace above
        return False
    finally:
        os.close(mounts)
    try:
        return os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
    finally:
        os.close(owner)


def id_helpers() -> dict[str, str]:
    """The programs that map subordinate ids (newuidmap(1), newgidmap(1)), as far as they are installed."""
    directories = (os.environ.get("PATH") or _DIRECTORIES).split(":")
    found = {}
    for name in ID_HELPERS:
        paths = (os.path.join(directory, name) for directory in directories if directory.startswith("/"))
        path = next((path for path in paths if os.access(path, os.X_OK)), "")
        if path:
            found[name] = path
    return found
