"""Signals as something to read: signalfd(2). They must be blocked, or they act before they are read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from orlop.sys.syscalls import libc

_SET = 128  # bytes of a sigset_t
_RECORD = 128  # bytes of a signalfd_siginfo, which begins with the signal's number


def signalfd(numbers: Iterable[int]) -> int:
    """A descriptor from which the signals are read, without waiting for them. The caller closes it."""
    mask = sum(1 << (number - 1) for number in numbers).to_bytes(_SET, "little")
    return libc("signalfd", -1, mask, os.O_CLOEXEC | os.O_NONBLOCK)


def received(fd: int) -> list[int]:
    """The numbers of the signals that wait there, in the order in which the kernel gives them."""
    numbers: list[int] = []
    while True:
        try:
            data = os.read(fd, 64 * _RECORD)
        except BlockingIOError:
            return numbers
        numbers += (struct.unpack_from("<I", data, at)[0] for at in range(0, len(data), _RECORD))
