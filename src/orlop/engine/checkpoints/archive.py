"""Archives of checkpoints: a tar of the directory that `dump` writes, and back."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orlop.engine.images.archive_read import compression_by_magic
from orlop.layers.apply import apply
from orlop.layers.diff import diff_overlay
from orlop.layers.limits import Limits, Ownership, WhiteoutFormat
from orlop.spec import cancel
from orlop.spec.errors import AlreadyExists, InvalidArgument, NotFound, from_os, os_errors
from orlop.sys.files import write_all

_LIMITS = Limits(devices=False, max_ratio=1 << 20)  # memory that nobody has written to is zeros


def pack(directory: Path, location: Path) -> None:
    """Write an archive of the directory to a new file. It has no name before it is whole, and stays away on failure.

    Raises AlreadyExists, NotFound for a directory that is not there, and Aborted where nobody waits for it any more.
    """
    with os_errors(f"write {location}"):
        fd, name = _unnamed(location)
        try:
            for piece in diff_overlay(directory):
                cancel.check()
                write_all(fd, piece)
            os.fsync(fd)
            _give_name(fd, name, location)
        finally:
            os.close(fd)
            if name:
                with suppress(FileNotFoundError):
                    os.unlink(name)


def _unnamed(location: Path) -> tuple[int, str]:
    """A file for writing, and its name for now where the file system has none without one."""
    if os.path.lexists(location):
        raise AlreadyExists(f"{location} exists already")
    try:
        return os.open(location.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600), ""
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    name = f"{location.parent}/.{location.name}.{os.getpid()}"
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), name


def _give_name(fd: int, name: str, location: Path) -> None:
    try:
        if name:
            os.link(name, location)
        else:  # only linkat(2) follows the link, and only with a descriptor of a directory Python calls that
            os.link(f"/proc/self/fd/{fd}", location, src_dir_fd=fd, follow_symlinks=True)
    except FileExistsError:
        raise AlreadyExists(f"{location} exists already") from None


def unpack(location: Path, directory: Path) -> None:
    """Write what an archive holds into an empty directory. Raises NotFound, and InvalidArgument for one that holds
    anything but files and directories."""
    with _opened(location) as stream:
        compression = compression_by_magic(stream.read(6))
        stream.seek(0)
        apply(stream, compression, directory, WhiteoutFormat.REMOVE, _LIMITS, ownership=Ownership(keep=False))
    check(directory)


def check(directory: Path) -> None:
    """Raises InvalidArgument where there is anything but files and directories: CRIU would follow links."""
    for path in _entries(directory):
        if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
            raise InvalidArgument(f"checkpoint: {path.relative_to(directory)} is no file")


def _entries(directory: Path) -> Iterator[Path]:
    for above, directories, files in os.walk(directory):
        yield from (Path(above, name) for name in (*directories, *files))


@contextmanager
def _opened(location: Path) -> Iterator[BinaryIO]:
    """A regular file, and nothing that would keep who opens it waiting. Raises NotFound and InvalidArgument."""
    try:
        fd = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{location}: no such archive") from None
    except OSError as error:
        raise from_os(error, f"open {location}") from error
    with os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{location}: is no archive of a checkpoint")
        yield stream
