"""Whole directory trees: removing and measuring them, whatever their contents are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_DEEP = 100  # levels; each holds a descriptor open
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a directory and all beneath it. A tree that is not there is fine; symbolic links are not followed.

    Works by descriptors, one a level, so that no path grows too long; what lies deeper than `_DEEP` levels is moved
    up to the top first.
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
    os.rmdir(path)


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
                os.rename(entry.name, f".orlop-removed-{moved[0]}", src_dir_fd=fd, dst_dir_fd=top)
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
    os.rmdir(name, dir_fd=fd)


def _unlink(name: str, fd: int) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        pass


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
