"""Signals as something to read: signalfd(2). They must be blocked, or they act before they are read."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from functools import lru_cache

from orlop.sys.syscalls import libc

_SET = 128  # bytes of a sigset_t
_RECORD = 128  # bytes of a signalfd_siginfo, which begins with the signal's number


def signalfd(numbers: Iterable[int]) -> int:
    """A descriptor from which the signals are read, without waiting for them. The caller closes it."""
    return libc("signalfd", -1, _mask(tuple(numbers)), os.O_CLOEXEC | os.O_NONBLOCK)


def hold_back(numbers: Iterable[int]) -> bytes:
    """Block the signals, besides those that are; what was blocked before, for `let_through`. Python's own
    pthread_sigmask makes an enumeration's member of each of sixty numbers."""
    before = bytearray(_SET)
    address = (ctypes.c_char * _SET).from_buffer(before)
    libc("sigprocmask", signal.SIG_BLOCK, _mask(tuple(numbers)), ctypes.addressof(address))
    return bytes(before)


def let_through(before: bytes) -> None:
    """Block what was blocked before `hold_back`, and nothing else."""
    libc("sigprocmask", signal.SIG_SETMASK, before, None)


@lru_cache(8)
def _mask(numbers: tuple[int, ...]) -> bytes:
    return sum(1 << (number - 1) for number in numbers).to_bytes(_SET, "little")


def received(fd: int) -> list[int]:
    """The numbers of the signals that wait there, in the order in which the kernel gives them."""
    numbers: list[int] = []
    while True:
        try:
            data = os.read(fd, 64 * _RECORD)
        except BlockingIOError:
            return numbers
        numbers += (struct.unpack_from("<I", data, at)[0] for at in range(0, len(data), _RECORD))
