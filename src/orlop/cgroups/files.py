"""Reading and writing the kernel's small files."""

from __future__ import annotations

import errno
import os

from orlop.sys.files import read_text


def read(path: str) -> str:
    """The whole content of a file. Raises FileNotFoundError too where its group goes once it is open (ENODEV,
    fs/kernfs/file.c)."""
    try:
        return read_text(path)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None


def write_file(path: str, value: str) -> None:
    """Write in one go, as control files want it. Raises FileNotFoundError also where its group is removed meanwhile."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode() or b"\n")
    except OSError as error:
        if error.errno != errno.ENODEV or os.path.exists(path):  # a limit for a device that there is not, too
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    finally:
        os.close(fd)


def read_keys(path: str) -> dict[str, int]:
    """A file of lines `key number`; lines of another form are left out, and a missing file is empty."""
    try:
        lines = read(path).splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdigit()}


def read_number(path: str) -> int | None:
    """A file of one number; None for `max`, or where the file is missing."""
    try:
        text = read(path).strip()
    except FileNotFoundError:
        return None
    return int(text) if text.lstrip("-").isdigit() else None
