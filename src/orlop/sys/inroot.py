"""Files beneath a root directory that is not trusted: openat2(2) with RESOLVE_IN_ROOT, so that no link leads out."""

from __future__ import annotations

import ctypes
import errno
import os

from orlop.sys.syscalls import syscall

_OPENAT2 = 437
_NO_MAGICLINKS, _IN_ROOT = 0x02, 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: str, flags: int = os.O_RDONLY) -> int:
    """Open `path` as if the directory `root` were `/`. Close-on-exec; raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _NO_MAGICLINKS | _IN_ROOT)
    for _ in range(64):  # a rename elsewhere makes a walk through ".." uncertain: the kernel asks to try again
        try:
            return syscall(
                "openat2",
                _OPENAT2,
                root,
                os.fsencode(path),
                ctypes.cast(ctypes.pointer(how), ctypes.c_void_p),
                ctypes.sizeof(how),
            )
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def read_in_root(root: int, path: str, limit: int = 1 << 20) -> bytes:
    """The first `limit` bytes of a regular file; nothing of what is missing or no regular file."""
    import stat

    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        parts: list[bytes] = []
        while limit and (data := os.read(fd, limit)):
            parts.append(data)
            limit -= len(data)
        return b"".join(parts)
    finally:
        os.close(fd)
