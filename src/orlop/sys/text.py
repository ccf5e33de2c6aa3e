"""Pages of programs and libraries that a process has in its map."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orlop.spec.errors import os_errors
from orlop.sys.syscalls import libc

_MADV_DONTNEED = 4
_HEAD = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)")
_OWN = (b"Anonymous:", b"Swap:")  # pages that are not the file's any more


class Text:
    """What a process only reads of its files (text, constants) and has in its map when this is made. It has one thread
    then: another might be loading a library, whose parts still change what they are."""

    def __init__(self) -> None:
        with os_errors("read what is mapped"):
            self._mappings = tuple(_mappings())

    def leave_to_cache(self) -> None:
        """Take it out of the map: what a start runs through is several times what is used ever after. The pages stay in
        the page cache; those that are used again come back from there, sixteen at a time, without reading a disk
        (madvise(2), MADV_DONTNEED)."""
        with os_errors("leave text to the page cache"):
            for start, end in self._mappings:
                libc("madvise", start, end - start, _MADV_DONTNEED)


def _mappings() -> Iterator[tuple[int, int]]:
    """Beginning and end of each private mapping of a file that can't be written and has no page of the process's own,
    as relocated data has, which is read-only from then on (proc_pid_smaps(5))."""
    candidate = None
    with open("/proc/self/smaps", "rb") as file:
        lines = file.read().splitlines()  # first: what is made while it is read is not in there
    for line in lines:
        if match := _HEAD.match(line):
            if candidate is not None:
                yield candidate
            start, end, rights, inode = match.groups()
            read_only = inode != b"0" and rights[1:2] == b"-" and rights[3:] == b"p"
            candidate = (int(start, 16), int(end, 16)) if read_only else None
        elif line.startswith(_OWN) and line.split()[1] != b"0":
            candidate = None
    if candidate is not None:
        yield candidate
