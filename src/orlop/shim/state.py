"""What a shim's state directory says: DIR/lock (held while it lives), DIR/pid, DIR/exit."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Literal

import msgspec

from orlop.sys import procfs
from orlop.wire.frames import Exit

Reality = Literal["none", "starting", "running", "stopped", "lost"]


class ShimState(msgspec.Struct, frozen=True):
    """One look at a state directory.

    `alive`: a shim holds the lock. `pid` and `start_time` (clock ticks since boot) name the container's first process;
    0 before it is known. `process`: that very process exists still. `exit`: how it ended, once that is on disk.
    """

    alive: bool = False
    pid: int = 0
    start_time: int = 0
    process: bool = False
    exit: Exit | None = None

    @property
    def reality(self) -> Reality:
        return classify(self.alive, self.pid != 0, self.process, self.exit is not None)


def classify(locked: bool, known: bool, process: bool, exited: bool) -> Reality:
    """What has become of a container.

    An exit status is the last thing that is written, so it decides alone. A held lock without a pid is a shim whose
    helper has not come to init yet; with one, a container that runs, or whose output is being drained. Without lock
    and status, the shim was killed: "lost", whether or not its process outlived it (`process`); with no trace at all
    there never was one.
    """
    if exited:
        return "stopped"
    if locked:
        return "running" if known else "starting"
    return "lost" if known or process else "none"


def read_state(directory: Path) -> ShimState:
    """Look at a state directory; one that doesn't exist is a shim that was never there."""
    # The order matters: the shim writes `exit` before it lets go of the lock, so a lock found free means that a status
    # that is missing now will never come.
    alive = is_locked(directory / "lock")
    pid, start_time = _read_pid(directory / "pid")
    return ShimState(alive, pid, start_time, bool(pid) and procfs.start_time(pid) == start_time, read_exit(directory))


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock. A shared lock taken for the test would disturb a shim that is just starting,
    so it lasts only for the two system calls."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def read_exit(directory: Path) -> Exit | None:
    """DIR/exit: `status signal time_ns oom`."""
    fields = _numbers(directory / "exit")
    return Exit(fields[0], fields[1], fields[2], bool(fields[3])) if len(fields) == 4 else None


def _read_pid(path: Path) -> tuple[int, int]:
    fields = _numbers(path)
    return (fields[0], fields[1]) if len(fields) == 2 else (0, 0)


def _numbers(path: Path) -> list[int]:
    try:
        return [int(word) for word in path.read_bytes().split()]
    except (FileNotFoundError, ValueError):
        return []
