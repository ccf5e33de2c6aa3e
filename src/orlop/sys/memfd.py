"""Anonymous files in memory (memfd_create(2)), sealed so that nobody can change them any more."""

from __future__ import annotations

import fcntl
import os

_F_ADD_SEALS = 1033
_MFD_NOEXEC_SEAL, _MFD_EXEC = 0x0008, 0x0010  # where vm.memfd_noexec is set, one of them must be there
_SEAL_ALL = 0x0001 | 0x0002 | 0x0004 | 0x0008  # no further seals, no shrinking, growing or writing


def sealed(name: str, data: bytes, executable: bool = False) -> int:
    """A descriptor of a sealed file that holds `data`, at offset 0. The caller closes it."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | (_MFD_EXEC if executable else _MFD_NOEXEC_SEAL))
    except OSError:  # before Linux 6.3 every such file may be executed
        fd = os.memfd_create(name, flags)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEAL_ALL)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
