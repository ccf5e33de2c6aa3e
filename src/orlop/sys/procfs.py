"""What tells one process, and one boot of the machine, from others (proc(5))."""

from __future__ import annotations

import os

_PF_FORKNOEXEC = 0x40
_boot = ""


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process (/proc/PID/stat, field 22); None for none, or for a zombie.

    Counted from the last ")", because field 2, the name, may hold anything.
    """
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if len(fields) < 20 or fields[0] in (b"Z", b"X") else int(fields[19])


def executed(pid: int) -> bool | None:
    """Whether a process has called execve since it was forked, also of a zombie; None where it is gone.

    /proc/PID/stat, field 9: PF_FORKNOEXEC, which the kernel takes away before it closes descriptors.
    """
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if len(fields) < 7 else not int(fields[6]) & _PF_FORKNOEXEC


def descendants(pid: int) -> set[int]:
    """Children of a process, their children, and so on, as they are at this moment."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = _read(f"/proc/{name}/stat").rpartition(b") ")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if len(fields) > 1:
                parents.setdefault(int(fields[1]), []).append(int(name))
    found: set[int] = set()
    pending = [pid]
    while pending:
        children = parents.get(pending.pop(), [])
        found.update(children)
        pending += children
    return found


def boot_id() -> str:
    """A random name of this boot (random(4)), which no process outlives."""
    global _boot
    if not _boot:
        _boot = _read("/proc/sys/kernel/random/boot_id").decode().strip()
    return _boot


def _read(path: str) -> bytes:
    """A file of a page at most, for which a file object would be three times the work."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
