"""Directories that a layer uses without describing them.

A layer may hold `usr/bin/tool` and nothing about `usr` and `usr/bin`. Applied to a directory of its own, it has to
make them (and the root is there anyway), and on overlayfs the upper directory's owner, mode, attributes and times are
the ones that show. So when layers are chained, those directories take over what the nearest lower layer says.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from orlop.spec.errors import os_errors

_READ_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Marks of overlayfs belong to one layer; SELinux labels to the host.
_OWN = ("trusted.overlay.", "user.overlay.", "security.selinux")


def inherit(target: Path, implied: Iterable[bytes], lowers: Sequence[Path]) -> None:
    """Give each directory in `implied` (see `Applied.implied`) below `target` the metadata that it has in the nearest
    of `lowers`, which are single-layer directories, uppermost first. One that no lower layer has stays as it is."""
    # Children first: what is set on a parent must outlast the work below it.
    with os_errors("inherit directory metadata from lower layers"):
        for path in sorted(implied, reverse=True):
            for lower in lowers:
                source = _open(lower, path)
                if source is None:
                    continue
                try:
                    _copy(source, target, path)
                finally:
                    os.close(source)
                break


def _copy(source: int, target: Path, path: bytes) -> None:
    own = _open(target, path)
    if own is None:
        return
    try:
        found = os.fstat(source)
        os.fchown(own, found.st_uid, found.st_gid)
        for name in os.listxattr(source):
            if not name.startswith(_OWN):
                os.setxattr(own, name, os.getxattr(source, name))
        os.fchmod(own, stat.S_IMODE(found.st_mode))
        os.utime(own, ns=(found.st_atime_ns, found.st_mtime_ns))
    finally:
        os.close(own)


def _open(root: Path, path: bytes) -> int | None:
    """The directory `path` below `root`, or None; symlinks are not followed: one in a lower layer is not a directory
    that overlayfs would merge with."""
    fd = os.open(root, _READ_DIR)
    for name in path.split(b"/") if path else ():
        above = fd
        fd = -1
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            fd = os.open(name, _READ_DIR, dir_fd=above)
        os.close(above)
        if fd < 0:
            return None
    return fd
