"""Whole directory trees: removing and measuring them, whatever their contents are."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

_DEEP = 100  # levels; each holds a descriptor open
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # ioctl_iflags(2), on 64-bit machines
_STUBBORN = 0x30  # FS_IMMUTABLE_FL, FS_APPEND_FL
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a directory and all beneath it. A tree that is not there is fine; symbolic links are not followed.

    Works by descriptors, one a level, so that no path grows too long; what lies deeper than `_DEEP` levels is moved
    up to the top first. Files that were made immutable, as a privileged container can, are made mutable. Another
    process may be removing the same tree.
    """
    try:
        top = os.open(path, _OPEN)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)
        return
    try:
        _empty(top, top, 0, [0])
    finally:
        os.close(top)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass


def _empty(fd: int, top: int, depth: int, moved: list[int]) -> None:
    again = True
    while again:
        again = False
        with os.scandir(fd) as entries:
            listed = list(entries)
        for entry in listed:
            if not entry.is_dir(follow_symlinks=False):
                _unlink(entry.name, fd)
            elif depth >= _DEEP:
                moved[0] += 1
                _rename(entry.name, fd, f".orlop-removed-{os.getpid()}-{moved[0]}", top)
            else:
                _remove_directory(entry.name, fd, top, depth, moved)
        again = fd == top and bool(os.listdir(fd))  # what has been moved up


def _remove_directory(name: str, fd: int, top: int, depth: int, moved: list[int]) -> None:
    try:
        child = os.open(name, _OPEN, dir_fd=fd)
    except FileNotFoundError:
        return
    except PermissionError:  # without root, a directory of one's own may lack the right to read
        os.chmod(name, 0o700, dir_fd=fd)
        child = os.open(name, _OPEN, dir_fd=fd)
    try:
        _empty(child, top, depth + 1, moved)
    finally:
        os.close(child)
    _unlink(name, fd, os.rmdir)


def _unlink(name: str, fd: int, remove: Callable[..., None] = os.unlink) -> None:
    try:
        remove(name, dir_fd=fd)
    except FileNotFoundError:
        pass
    except PermissionError as error:
        if error.errno != errno.EPERM or not _soften(name, fd):
            raise
        remove(name, dir_fd=fd)


def _rename(name: str, fd: int, new: str, top: int) -> None:
    try:
        os.rename(name, new, src_dir_fd=fd, dst_dir_fd=top)
    except FileNotFoundError:
        pass


def _soften(name: str, fd: int) -> bool:
    """Take the immutable and append-only flags from a file and its directory; whether there were any."""
    changed = _clear_flags(fd)
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError:  # a symbolic link or socket, which has no flags
        return changed
    try:
        return _clear_flags(file) or changed
    finally:
        os.close(file)


def _clear_flags(fd: int) -> bool:
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))
        if not flags & _STUBBORN:
            return False
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags & ~_STUBBORN))
    except OSError:  # a file system without flags, or no right to change them: the error of the removal says it
        return False
    return True


def measure_tree(path: Path) -> tuple[int, int]:
    """(bytes of the regular files, number of entries) beneath `path`; a file with several names counts once."""
    size = entries = 0
    seen: set[int] = set()
    pending = [os.fspath(path)]
    while pending:
        with os.scandir(pending.pop()) as listed:
            for entry in listed:
                info = entry.stat(follow_symlinks=False)
                entries += 1
                if stat.S_ISDIR(info.st_mode):
                    pending.append(entry.path)
                elif info.st_nlink == 1 or info.st_ino not in seen:
                    size += info.st_size if stat.S_ISREG(info.st_mode) else 0
                    seen.add(info.st_ino)
    return size, entries
