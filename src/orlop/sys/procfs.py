"""What tells one process, and one boot of the machine, from others (proc(5))."""

from __future__ import annotations


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process (/proc/PID/stat, field 22); None for none, or for a zombie.

    Counted from the last ")", because field 2, the name, may hold anything.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if len(fields) < 20 or fields[0] in (b"Z", b"X") else int(fields[19])


def boot_id() -> str:
    """A random name of this boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()
