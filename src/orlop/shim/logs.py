"""Reads a container's json-file log: FILE, and what rotation made of older ones (FILE.1 is younger than FILE.2)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from orlop.shim.state import read_state
from orlop.spec.errors import DataLoss
from orlop.wire.logline import LogLine, decode_line, format_time
from orlop.wire.moment import parse_moment

__all__ = ["LogLine", "read"]

_BLOCK = 65536
_LONGEST = 16384 * 6 + 256  # bytes of an entry; anything longer is damage, and is not collected in memory
_MOST_FILES = 1000  # that the shim keeps
_LOOK = 1.0  # seconds between two looks at a container that writes nothing: its shim may have been killed


def read(
    path: Path,
    *,
    tail: int | None = None,
    since: str | int | None = None,
    until: str | int | None = None,
    follow: bool = False,
    directory: Path | None = None,
    stdout: bool = True,
    stderr: bool = True,
) -> Iterator[LogLine]:
    """The lines of a log, oldest first.

    `tail`: only the last so many entries (counted before the other conditions, as Docker does). `since` (inclusive) and
    `until` are moments (see wire.moment) or nanoseconds. `follow` waits for more until the container whose state
    directory is `directory` has ended, across rotation. Lines that can't be read come as a `note` on stderr.
    """
    since_ns, until_ns = _moment(since, "since"), _moment(until, "until")
    wanted = {name for name, on in (("stdout", stdout), ("stderr", stderr)) if on}
    for line in _entries(path, tail, follow, directory, until_ns):
        if line.note:
            yield line
            continue
        if line.stream not in wanted or (since_ns is not None and line.time_ns < since_ns):
            continue
        if until_ns is not None and line.time_ns > until_ns:
            if follow:
                return
            continue
        yield line


def _moment(value: str | int | None, field: str) -> int | None:
    if not isinstance(value, str):
        return value
    return parse_moment(value, time.time_ns(), time.localtime().tm_gmtoff, field) if value else None


def _entries(
    path: Path, tail: int | None, follow: bool, directory: Path | None, until: int | None
) -> Iterator[LogLine]:
    files = _Files(path)
    try:
        files.open()
        if tail is not None:
            files.seek_tail(tail)
        decoder = _Lines()
        for data in files.read():
            yield from decoder.feed(data)
        if follow:
            for data in _following(files, path, directory, until):
                yield from decoder.feed(data)
        yield from decoder.end()
    finally:
        files.close()


def _following(files: _Files, path: Path, directory: Path | None, until: int | None) -> Iterator[bytes]:
    from orlop.sys.inotify import Watch

    watch = Watch(path.parent, *(() if directory is None else (directory,)))
    try:
        while True:
            # The shim writes the exit status after the log: what is read after this look is all there is.
            over = directory is not None and read_state(directory).reality not in ("starting", "running")
            over = over or (until is not None and time.time_ns() > until)
            yield from files.read()
            if over:
                return
            watch.wait(_LOOK if until is None else max(0.0, min(_LOOK, (until - time.time_ns()) / 1e9)))
    finally:
        watch.close()


class _Lines:
    """Cuts bytes into entries; damage becomes a note."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipped = 0  # bytes of a line that is longer than any entry

    def feed(self, data: bytes) -> Iterator[LogLine]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            skipped, self._skipped = self._skipped, 0
            if skipped or len(line) > _LONGEST:
                yield _note(f"a line of {skipped + len(line)} bytes is no entry of a log")
            elif line:
                yield _decode(line)
        if len(self._rest) > _LONGEST:
            self._skipped += len(self._rest)
            self._rest = b""

    def end(self) -> Iterator[LogLine]:
        """A line without its end: the writer was killed, or is just writing it."""
        if self._rest or self._skipped:
            yield _note(f"the last line is cut off after {len(self._rest) + self._skipped} bytes")


def _decode(line: bytes) -> LogLine:
    try:
        return decode_line(line)
    except DataLoss as error:
        return _note(str(error))


def _note(text: str) -> LogLine:
    return LogLine(f"orlop: damaged log: {text}\n", "stderr", format_time(time.time_ns()), note=True)


class _Files:
    """The files of one log, open, the oldest first; the last one is the one that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fds: list[int] = []

    def open(self) -> None:
        self._fds = self._younger_than(None)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def read(self) -> Iterator[bytes]:
        """What there is from here on. The file that grows stays open for the next call."""
        while self._fds:
            while data := os.read(self._fds[0], _BLOCK):
                yield data
            if len(self._fds) == 1 and not self._rotated():
                return
            if len(self._fds) > 1:
                # Rotation may have come between the last read and the look: read the rest before leaving it.
                while data := os.read(self._fds[0], _BLOCK):
                    yield data
                os.close(self._fds.pop(0))
        if not self._fds:
            self.open()
            if self._fds:
                yield from self.read()

    def _rotated(self) -> bool:
        """Whether younger files than the last open one are there; they are opened."""
        younger = self._younger_than(self._fds[-1])
        self._fds += younger
        return bool(younger)

    def _younger_than(self, last: int | None) -> list[int]:
        """Open FILE, FILE.1, ... down to the file of `last`. A file only ever moves to a higher number, so opening in
        this order misses none; one that is met twice has moved meanwhile."""
        stop = None if last is None else _identity(last)
        found: list[int] = []
        seen = set()
        for number in self._numbers():
            try:
                name = self._path if number == 0 else self._path.with_name(f"{self._path.name}.{number}")
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            identity = _identity(fd)
            if identity == stop or identity in seen:
                os.close(fd)
                if identity == stop:
                    break
                continue
            seen.add(identity)
            found.append(fd)
        return found[::-1]

    def _numbers(self) -> list[int]:
        prefix = self._path.name + "."
        try:
            names = os.listdir(self._path.parent)
        except FileNotFoundError:
            return []
        tails = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        there = {int(tail) for tail in tails if tail.isascii() and tail.isdigit() and len(tail) < 7}
        # Rotation may go on while the files are being opened, so a number that is free now is tried all the same.
        return sorted(there | set(range(min(max(there, default=0), _MOST_FILES) + 3)))

    def seek_tail(self, count: int) -> None:
        """Leave out everything before the last `count` entries, reading blocks from the end backwards."""
        for i in range(len(self._fds) - 1, -1, -1):
            count, offset = _from_end(self._fds[i], count)
            os.lseek(self._fds[i], offset, os.SEEK_SET)
            if count <= 0:
                for fd in self._fds[:i]:
                    os.close(fd)
                del self._fds[:i]
                return


def _from_end(fd: int, count: int) -> tuple[int, int]:
    """(entries still missing, offset at which the last `count` begin)."""
    end = os.fstat(fd).st_size
    if count <= 0:
        return 0, end
    position = end
    while position > 0:
        start = max(0, position - _BLOCK)
        block = os.pread(fd, position - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            if start + at + 1 == end:
                continue  # the end of the last line
            count -= 1
            if count == 0:
                return 0, start + at + 1
        position = start
    return (count - 1, 0) if end else (count, 0)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
