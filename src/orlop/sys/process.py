"""What a process asks of the kernel for itself (prctl(2))."""

from __future__ import annotations

import ctypes

from orlop.sys.syscalls import libc

_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8


def die_with_parent(signal: int) -> None:
    """Get this signal when the thread that started this process ends. Look at getppid(2) afterwards: it may have ended
    before."""
    libc("prctl", _PR_SET_PDEATHSIG, signal)


def share_heaps(count: int) -> None:
    """Let the C library keep at most so many heaps, whatever the number of threads (mallopt(3)). Each holds on to what
    it once had, which with one for every thread is a third of a daemon. Other C libraries have no such call."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_ARENA_MAX, count)
