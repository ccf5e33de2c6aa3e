"""Advisory locks between processes and threads: flock(2).

A lock belongs to the open file description, so two threads that open the file each take it in turn, and the kernel
lets go of it when its holder dies, however that happens.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FIRST_WAIT, _LONGEST_WAIT = 0.002, 0.1  # seconds between two tries


def try_lock(fd: int, shared: bool = False) -> bool:
    """Take the lock if it is free. Taking it again through the same descriptor succeeds."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int, shared: bool = False, check: Callable[[], None] | None = None) -> None:
    """Take the lock, waiting for it. `check` is called between tries and may raise to give up: a thread that sleeps
    in flock(2) could not be told to."""
    wait = _FIRST_WAIT
    while not try_lock(fd, shared):
        if check is not None:
            check()
        time.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)


@contextmanager
def locked(path: Path, shared: bool = False, check: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the lock on the file `path` (made if it is missing) for a `with` block. The file stays."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(fd, shared, check)
        yield fd
    finally:
        os.close(fd)


def lock_file(path: Path, check: Callable[[], None] | None = None, wait: bool = True) -> int | None:
    """Open `path` (made if it is missing) and lock it, such that the locked file is the one that bears the name.

    Whoever holds the lock may rename or unlink the file; the next in line then notices that it locked a file without
    a name and starts again. Returns the descriptor, or None where `wait` is false and another one holds the lock.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if wait:
                lock(fd, check=check)
            elif not try_lock(fd):
                os.close(fd)
                return None
            if _same_file(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
