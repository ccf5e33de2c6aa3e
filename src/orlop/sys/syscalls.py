"""System calls that neither Python nor every C library wraps, by number.

The numbers from 424 on are the same on every architecture (Linux, asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def syscall(name: str, number: int, *arguments: int | bytes | ctypes.c_void_p | None) -> int:
    """Make the call and return its result; a failure is an `OSError` whose filename is the call's name."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise _failure(name)
    return result


def libc(name: str, *arguments: int | bytes | None) -> int:
    """Call a function of the C library that returns -1 and sets errno when it fails."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = getattr(_libc, name)(*wide)
    if result < 0:
        raise _failure(name)
    return result


def _failure(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)
