"""Archives of checkpoints: a tar of the directory that `dump` writes, and back."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orlop.engine.images.archive_read import compression_by_magic
from orlop.layers.apply import apply
from orlop.layers.decompress import Counted, chunks
from orlop.layers.diff import diff_overlay
from orlop.layers.limits import Limits, Ownership, WhiteoutFormat
from orlop.spec import cancel
from orlop.spec.errors import AlreadyExists, InvalidArgument, NotFound, from_os, os_errors
from orlop.sys.files import write_all
from orlop.wire import tar

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


def fetch(source: Path, directory: Path) -> None:
    """Write what an archive, or another directory, holds into an empty directory. Raises NotFound, and InvalidArgument
    for what holds anything but files and directories."""
    if source.is_dir():
        _copy(source, directory)
        return
    with opened(source) as stream:
        apply(
            stream, compression_of(stream), directory, WhiteoutFormat.REMOVE, _LIMITS, ownership=Ownership(keep=False)
        )
    check(directory)


def _copy(source: Path, directory: Path) -> None:
    check(source)
    with os_errors("copy the checkpoint"):
        for path in _entries(source):
            cancel.check()
            target = directory / path.relative_to(source)
            if path.is_dir():
                target.mkdir(mode=0o700)
            else:
                shutil.copyfile(path, target, follow_symlinks=False)


def read(location: Path, name: str, most: int = 1 << 20) -> bytes:
    """One small file of an archive or a directory. Raises NotFound where there is no archive, InvalidArgument for one
    without such a file."""
    if location.is_dir():
        with opened(location / name) as stream:
            return stream.read(most)
    with opened(location) as stream:
        source = chunks(Counted(stream), compression_of(stream), _LIMITS)
        found = _member(source, name.encode(), most)
    if found is None:
        raise InvalidArgument(f"{location}: is no archive of a checkpoint: it has no {name}")
    return found


def _member(source: Iterator[bytes], name: bytes, most: int) -> bytes | None:
    """The contents of one member of a tar."""
    decoder = tar.Decoder()

    def go_on() -> None:
        cancel.check()
        if piece := next(source, b""):
            decoder.feed(piece)
        else:
            decoder.close()

    while (entry := decoder.next_entry()) is not tar.END:
        if not isinstance(entry, tar.Entry):
            go_on()
        elif entry.path.removeprefix(b"./") == name and entry.size <= most:
            found = b""
            while decoder.remaining:
                found += decoder.take() or b""
                if decoder.remaining:
                    go_on()
            return found
    return None


def compression_of(stream: BinaryIO) -> str:
    """By its first bytes; the stream is at its beginning before and after."""
    found = compression_by_magic(stream.read(6))
    stream.seek(0)
    return found


def check(directory: Path) -> None:
    """Raises InvalidArgument where there is anything but files and directories: CRIU would follow links."""
    for path in _entries(directory):
        if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
            raise InvalidArgument(f"checkpoint: {path.relative_to(directory)} is no file")


def _entries(directory: Path) -> Iterator[Path]:
    for above, directories, files in os.walk(directory):
        yield from (Path(above, name) for name in (*directories, *files))


@contextmanager
def opened(location: Path) -> Iterator[BinaryIO]:
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
