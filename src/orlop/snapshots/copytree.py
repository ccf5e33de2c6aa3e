"""Copy a file tree as it is: owners, modes, times, extended attributes, hard links, devices and holes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_CHUNK = 64 << 20
_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP})
_NO_REFLINK = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def copy_tree(source: Path, target: Path) -> None:
    """Copy what is in `source` into the directory `target`, which takes on the attributes of `source` too."""
    links: dict[tuple[int, int], str] = {}
    directories: list[tuple[str, str]] = []
    pending = [(os.fspath(source), os.fspath(target))]
    while pending:
        here, there = pending.pop()
        directories.append((here, there))
        with os.scandir(here) as entries:
            for entry in entries:
                to = os.path.join(there, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    os.mkdir(to, 0o700)
                    pending.append((entry.path, to))
                else:
                    _copy_entry(entry.path, to, entry.stat(follow_symlinks=False), links)
    for here, there in reversed(directories):  # last, and from below: copying into a directory changes its times
        _copy_attributes(here, there, os.lstat(here))


def _copy_entry(source: str, target: str, info: os.stat_result, links: dict[tuple[int, int], str]) -> None:
    identity = (info.st_dev, info.st_ino)
    if info.st_nlink > 1 and identity in links:
        os.link(links[identity], target, follow_symlinks=False)
        return
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(info.st_mode):
        _copy_data(source, target, info.st_size)
    else:
        os.mknod(target, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev)
    _copy_attributes(source, target, info)
    if info.st_nlink > 1:
        links[identity] = target


def _copy_attributes(source: str, target: str, info: os.stat_result) -> None:
    """Owner first: chown(2) clears set-uid bits and security.capability."""
    link = stat.S_ISLNK(info.st_mode)
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    if not link:
        os.chmod(target, stat.S_IMODE(info.st_mode))
    for name in _attribute_names(source):
        os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


def _attribute_names(path: str) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return []
        raise


def _copy_data(source: str, target: str, size: int) -> None:
    """The data of a regular file, holes left as holes; the file system shares the blocks where it can."""
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(writer, size)
            start = _next(reader, 0, os.SEEK_DATA)
            while start is not None:
                end = _next(reader, start, os.SEEK_HOLE) or size
                _copy_range(reader, writer, start, end)
                start = _next(reader, end, os.SEEK_DATA) if end < size else None
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _next(fd: int, offset: int, whence: int) -> int | None:
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data beyond the offset
            return None
        raise


def _copy_range(reader: int, writer: int, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(reader, writer, min(end - start, _CHUNK), start, start)
        except OSError as error:
            if error.errno not in _NO_REFLINK:
                raise
            count = os.pwrite(writer, os.pread(reader, min(end - start, 1 << 20), start), start)
        if count == 0:
            return
        start += count
