"""One long operation at a time changes a container: a lock file each, held by flock(2), so it ends with its holder.

Threads of one process take turns before that, by a lock that wakes the next one at once: for what another process holds
there is only asking again.
"""

from __future__ import annotations

import fcntl
import os
import time
from _thread import LockType, allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orlop.engine.records import Owner
from orlop.spec import cancel
from orlop.spec.errors import DeadlineExceeded, os_errors
from orlop.sys.procfs import boot_id, start_time

_POLL = 0.01  # seconds at most


class _Turns:
    """The threads of this process that hold a lock or wait for it."""

    __slots__ = ("lock", "threads")

    def __init__(self) -> None:
        self.lock: LockType = allocate_lock()
        self.threads = 0


_guard = allocate_lock()
_turns: dict[str, _Turns] = {}  # by path


@contextmanager
def exclusive(path: Path, timeout: float = 120.0) -> Iterator[None]:
    """Hold the lock at `path`, waiting up to `timeout` seconds for another holder."""
    deadline = time.monotonic() + timeout
    with _turn(path, deadline):
        with os_errors("lock"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait(descriptor, path, deadline)
            yield
        finally:
            os.close(descriptor)


@contextmanager
def _turn(path: Path, deadline: float) -> Iterator[None]:
    key = str(path)
    with _guard:
        turns = _turns.get(key) or _turns.setdefault(key, _Turns())
        turns.threads += 1
    try:
        while not turns.lock.acquire(timeout=cancel.patience(max(0.0, deadline - time.monotonic())) or 0.0):
            _check(path, deadline)
        try:
            yield
        finally:
            turns.lock.release()
    finally:
        with _guard:
            turns.threads -= 1
            if not turns.threads:
                del _turns[key]


def _wait(descriptor: int, path: Path, deadline: float) -> None:
    pause = 0.001
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            _check(path, deadline)
            time.sleep(pause)
            pause = min(pause * 2, _POLL)


def _check(path: Path, deadline: float) -> None:
    cancel.check()
    if time.monotonic() >= deadline:
        raise DeadlineExceeded(f"another operation holds {path.name[:12]} for too long") from None


def forget(path: Path) -> None:
    """Remove a lock file whose container is gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def this_process() -> Owner:
    """The calling process as the owner of an operation."""
    return Owner(pid=os.getpid(), start_time=start_time(os.getpid()) or 0, boot_id=boot_id())


def alive(owner: Owner | None) -> bool:
    """Whether the process that began an operation still exists."""
    return owner is not None and owner.boot_id == boot_id() and start_time(owner.pid) == owner.start_time
