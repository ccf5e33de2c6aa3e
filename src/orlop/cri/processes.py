"""What /proc says of a container's processes together (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """`open_files_limit` is the first process's soft limit; None where it has none."""

    count: int = 0
    threads: int = 0
    descriptors: int = 0
    sockets: int = 0
    open_files_limit: int | None = None


def processes(pids: Iterable[int]) -> Processes:
    """One that ends meanwhile is not counted."""
    count = threads = descriptors = sockets = 0
    limit: int | None = None
    for pid in pids:
        try:
            threads += len(os.listdir(f"/proc/{pid}/task"))
            open_fds = os.listdir(f"/proc/{pid}/fd")
            links = [_link(f"/proc/{pid}/fd/{fd}") for fd in open_fds]
            if limit is None:
                limit = _open_files(pid)
        except OSError:
            continue
        count += 1
        descriptors += len(open_fds)
        sockets += sum(link.startswith("socket:") for link in links)
    return Processes(count=count, threads=threads, descriptors=descriptors, sockets=sockets, open_files_limit=limit)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _open_files(pid: int) -> int | None:
    with open(f"/proc/{pid}/limits") as file:
        for line in file:
            if line.startswith("Max open files"):
                soft = line.split()[3]
                return None if soft == "unlimited" else int(soft)
    return None
