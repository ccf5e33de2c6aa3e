"""What a process asks of the kernel for itself (prctl(2))."""

from __future__ import annotations

from orlop.sys.syscalls import libc

_PR_SET_PDEATHSIG = 1


def die_with_parent(signal: int) -> None:
    """Get this signal when the thread that started this process ends. Look at getppid(2) afterwards: it may have ended
    before."""
    libc("prctl", _PR_SET_PDEATHSIG, signal)
