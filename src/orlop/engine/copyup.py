"""Fills a new, empty volume with what the image has at the place where it is mounted, as Docker does."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orlop.spec.errors import os_errors
from orlop.sys.inroot import open_in_root

_DEEPEST = 200


def fill_volume(root: int, target: str, volume: Path) -> None:
    """Copy the directory `target` of the root file system into `volume`, with owners, modes and times, unless the
    volume has something in it already. The volume's own directory takes over owner and mode of the image's."""
    with os_errors(f"fill volume from {target}"):
        if os.listdir(volume):
            return
        try:
            source = open_in_root(root, target, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            goal = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _copy_directory(source, goal, 0)
            finally:
                os.close(goal)
        finally:
            os.close(source)


def _copy_directory(source: int, goal: int, depth: int) -> None:
    if depth > _DEEPEST:
        raise OSError(40, os.strerror(40))
    for name in os.listdir(source):
        _copy_entry(source, goal, name, os.stat(name, dir_fd=source, follow_symlinks=False), depth)
    info = os.fstat(source)
    os.fchown(goal, info.st_uid, info.st_gid)
    os.fchmod(goal, stat.S_IMODE(info.st_mode))
    os.utime(goal, ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_entry(source: int, goal: int, name: str, info: os.stat_result, depth: int) -> None:
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=goal)
        below, made = _directory(name, source), _directory(name, goal)
        try:
            _copy_directory(below, made, depth + 1)
        finally:
            os.close(below)
            os.close(made)
        return
    if kind == stat.S_IFSOCK:
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=goal)
    elif kind == stat.S_IFREG:
        _copy_file(source, goal, name)
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=goal)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=goal, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=goal)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=goal, follow_symlinks=False)


def _copy_file(source: int, goal: int, name: str) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=goal)
        try:
            while os.sendfile(writing, reading, None, 1 << 20):
                pass
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _directory(name: str, at: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
