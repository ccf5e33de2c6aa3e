"""Waiting for changes to files: inotify(7)."""

from __future__ import annotations

import os
import select
from pathlib import Path

from orlop.sys.syscalls import libc

IN_MODIFY, IN_CREATE, IN_MOVED_TO = 0x2, 0x100, 0x80
_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK


class Watch:
    """Wakes its owner when something in one of the directories changes. It says that, not what: look again."""

    def __init__(self, *directories: Path) -> None:
        self._fd = libc("inotify_init1", _IN_CLOEXEC | _IN_NONBLOCK)
        try:
            for directory in directories:
                libc("inotify_add_watch", self._fd, os.fsencode(directory), IN_MODIFY | IN_CREATE | IN_MOVED_TO)
        except BaseException:
            os.close(self._fd)
            raise

    def wait(self, seconds: float) -> None:
        """Return after a change, or when the time is up."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if poll.poll(int(seconds * 1000)):
            os.read(self._fd, 65536)

    def fileno(self) -> int:
        return self._fd

    def names(self) -> set[str]:
        """Of the files that have changed since the last look."""
        found: set[str] = set()
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                length = int.from_bytes(data[at + 12 : at + 16], "little")
                found.add(os.fsdecode(data[at + 16 : at + 16 + length].rstrip(b"\0")))
                at += 16 + length

    def close(self) -> None:
        os.close(self._fd)
