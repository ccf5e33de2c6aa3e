"""What a kept plan depends on beside its container (see `template`): if any of it has changed, it is made anew."""

from __future__ import annotations

import os

import orlop
from orlop.runtime.spawn import PROGRAM


def circumstances(pid: int, start_time: int) -> bytes:
    """Of a container's first process, of the calling process, whose limits and capabilities bound the new one's, and of
    the program that will read the plan."""
    helper = os.stat(PROGRAM)
    bounding = next(line for line in _read("/proc/self/status").splitlines() if line.startswith(b"CapBnd:"))
    mine = (os.geteuid(), os.getegid(), pid, start_time, orlop.__version__, helper.st_mtime_ns, helper.st_size)
    return b"\n".join((repr(mine).encode(), bounding, _read("/proc/self/oom_score_adj"), _read("/proc/self/limits")))


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()
