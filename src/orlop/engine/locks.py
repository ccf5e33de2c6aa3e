"""One long operation at a time changes a container: a lock file each, held by flock(2), so it ends with its holder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orlop.engine.records import Owner
from orlop.spec import cancel
from orlop.spec.errors import DeadlineExceeded, os_errors
from orlop.sys.procfs import boot_id, start_time

_POLL = 0.01  # seconds


@contextmanager
def exclusive(path: Path, timeout: float = 120.0) -> Iterator[None]:
    """Hold the lock at `path`, waiting up to `timeout` seconds for another holder."""
    with os_errors("lock"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait(descriptor, path, time.monotonic() + timeout)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            cancel.check()
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"another operation holds {path.name[:12]} for too long") from None
            time.sleep(_POLL)


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
