"""What a process asks of the kernel for itself (prctl(2))."""

from __future__ import annotations

import errno
import os

from orlop.sys.syscalls import libc, syscall

_SECCOMP = {"x86_64": 317, "aarch64": 277}  # asm-generic has it at 277, x86 at its own number
_SECCOMP_SET_MODE_FILTER = 1
_PR_SET_PDEATHSIG = 1


def die_with_parent(signal: int) -> None:
    """Get this signal when the thread that started this process ends. Look at getppid(2) afterwards: it may have ended
    before."""
    libc("prctl", _PR_SET_PDEATHSIG, signal)


def takes_seccomp_flags(flags: int) -> bool:
    """Whether this kernel knows these flags of filters: without a filter it then finds fault with that alone, EFAULT
    (seccomp(2))."""
    number = _SECCOMP.get(os.uname().machine)
    if number is None:
        return False
    try:
        syscall("seccomp", number, _SECCOMP_SET_MODE_FILTER, flags, None)
    except OSError as error:
        return error.errno == errno.EFAULT
    return False
