"""Files written so that a crash leaves the old content or the new, never half of it."""

from __future__ import annotations

import os
from _thread import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path  # which takes longer to import than all of this


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (fsync(2): syncing a file does not sync the entry that names it)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_text(path: str) -> str:
    """As `read_bytes`; what is no UTF-8 is replaced."""
    return read_bytes(path).decode("utf-8", "replace")


def read_bytes(path: str) -> bytes:
    """A whole small file, as of the kernel; a fifth of what `open` costs. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while piece := os.read(fd, 1 << 16):
            data += piece
        return data
    finally:
        os.close(fd)


def overwrite(path: str, data: bytes, mode: int = 0o644) -> None:
    """Put `data` in a file, in place where it is there. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until everything is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` under `path` atomically and durably: the new file stands beside the old one, under a name of this
    thread's own, until it is whole."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            write_all(fd, data)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        os.rename(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
