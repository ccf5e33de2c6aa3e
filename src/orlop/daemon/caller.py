"""Whether a command may be run by the daemon: its caller must be who, and where, the daemon is.

A worker opens paths, makes control groups and writes state on behalf of the front end. Were the front end in another
mount namespace, or less capable, the result would not be what it is without a daemon; such a command stays its own.
"""

from __future__ import annotations

import os

import msgspec

NAMESPACES = ("mnt", "user", "pid", "net", "cgroup", "ipc", "uts", "time")
_RIGHTS = (b"Uid:", b"Gid:", b"Groups:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"NoNewPrivs:", b"Seccomp:")


class Standing(msgspec.Struct, frozen=True):
    """Root directory by device and inode, namespaces as their links name them (namespaces(7)), and what a process may
    do."""

    root: tuple[int, int]
    namespaces: tuple[str, ...]
    rights: tuple[bytes, ...]


def standing(process: str) -> Standing | None:
    """Of `/proc/<process>`; None for one that is gone."""
    try:
        root = os.stat(f"/proc/{process}/root")
        namespaces = tuple([os.readlink(f"/proc/{process}/ns/{name}") for name in NAMESPACES])
        with open(f"/proc/{process}/status", "rb", buffering=0) as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:
        return None
    return Standing(
        (root.st_dev, root.st_ino),
        namespaces,
        tuple(line for line in lines if line.startswith(_RIGHTS)),
    )
