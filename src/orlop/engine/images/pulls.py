"""Pulls that are under way, written down where every process sees them, so that `pull --watch` can join one.

Each has a file `<state>/pulls/<pid>-<hex>`, one JSON document, rewritten in place at most five times a second and
removed at the pull's end. Who has it open by then still reads from it how the pull ended. The file of a process that
was killed is known by its owner, who is no more.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from orlop.engine import locks
from orlop.engine.images import progress as told
from orlop.engine.images.progress import Progress, Watcher
from orlop.engine.records import Owner
from orlop.spec.document import known
from orlop.spec.errors import OrlopError

INTERVAL = 0.2  # seconds between two writes, and between two looks
_LIMIT = 1 << 20  # bytes of a record that are read


class PullRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A pull as its file has it. `steps` is the last step of each blob, in the order in which they began. At the end
    either `digest` or `error` is set: what the name stands for now, or why it does not."""

    reference: str
    namespace: str
    owner: Owner
    began: float  # seconds since the epoch
    steps: tuple[Progress, ...] = ()
    digest: str = ""
    error: str = ""

    @property
    def over(self) -> bool:
        return bool(self.digest or self.error)


_DECODER = msgspec.json.Decoder(known(PullRecord))


def _key(step: Progress) -> tuple[str, bool]:
    """Download and unpacking of a layer go on side by side, each with its own count."""
    return step.digest, step.action == told.DOWNLOADING


class Recording:
    """A `Watcher` that writes down what it is told before it passes it on. Safe for several threads.

    A record that can't be written is given up without a word: the pull is worth more than who watches it.
    """

    def __init__(self, directory: Path | None, reference: str, namespace: str, watcher: Watcher) -> None:
        self._record = PullRecord(
            reference=reference, namespace=namespace, owner=locks.this_process(), began=time.time()
        )
        self._watcher = watcher
        self._lock = threading.Lock()
        self._steps: dict[tuple[str, bool], Progress] = {}
        self._written = 0.0
        self._timer: threading.Timer | None = None
        self._path = Path() if directory is None else directory / f"{os.getpid()}-{os.urandom(6).hex()}"
        self._fd = -1 if directory is None else _create(self._path)
        with self._lock:
            self._write()

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            self._steps[_key(progress)] = progress
            self._soon()
        self._watcher(progress)

    def end(self, digest: str = "", error: str = "") -> None:
        """Write the outcome, and remove the file."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._fd < 0:
                return
            self._record = msgspec.structs.replace(self._record, digest=digest, error=error)
            self._write()
            with suppress(OSError):
                os.unlink(self._path)
            os.close(self._fd)
            self._fd = -1

    def _soon(self) -> None:
        """Write now, or when the interval is over."""
        left = self._written + INTERVAL - time.monotonic()
        if left <= 0:
            self._write()
        elif self._timer is None and self._fd >= 0:
            self._timer = threading.Timer(left, self._late)
            self._timer.daemon = True
            self._timer.start()

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            self._write()

    def _write(self) -> None:
        if self._fd < 0:
            return
        self._written = time.monotonic()
        self._record = msgspec.structs.replace(self._record, steps=tuple(self._steps.values()))
        data = msgspec.json.encode(self._record)
        with suppress(OSError):
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))


def _create(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return -1


@contextmanager
def recorded(directory: Path | None, reference: str, namespace: str, watcher: Watcher) -> Iterator[Recording]:
    """A pull that is written down while the block lasts, which tells its outcome by `end`. With None as the directory
    it is not."""
    recording = Recording(directory, reference, namespace, watcher)
    try:
        yield recording
    except BaseException as error:
        recording.end(error=str(error) if isinstance(error, OrlopError) else f"interrupted ({type(error).__name__})")
        raise
    finally:
        recording.end(error="it ended without a result")


class UnderWay:
    """A pull of any process, held open for being followed. Close it."""

    def __init__(self, fd: int, record: PullRecord) -> None:
        self._fd = fd
        self.record = record

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def follow(self, watcher: Watcher) -> PullRecord:
        """Tell `watcher` each step until the pull is over; how it ended. A pull whose process is gone has ended with
        an error."""
        shown: dict[tuple[str, bool], Progress] = {}
        while True:
            alive = locks.alive(self.record.owner)
            self.record = _read(self._fd) or self.record
            for step in self.record.steps:
                if shown.get(_key(step)) != step:
                    shown[_key(step)] = step
                    watcher(step)
            if self.record.over:
                return self.record
            if not alive:
                error = f"process {self.record.owner.pid}, which pulled it, is gone"
                return msgspec.structs.replace(self.record, error=error)
            time.sleep(INTERVAL / 2)


def under_way(directory: Path) -> list[UnderWay]:
    """Every pull that is under way, the oldest first. What killed processes left is removed."""
    found = []
    for name in _names(directory):
        path = directory / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # it has ended meanwhile
            continue
        record = _read(fd)
        if record is not None and not record.over and locks.alive(record.owner):
            found.append(UnderWay(fd, record))
            continue
        os.close(fd)
        if record is not None and not locks.alive(record.owner):
            with suppress(OSError):
                os.unlink(path)
    return sorted(found, key=lambda pull: pull.record.began)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(fd: int) -> PullRecord | None:
    """What the file says now; None where it was caught between two states, several times."""
    for _ in range(5):
        try:
            return _DECODER.decode(os.pread(fd, _LIMIT, 0))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            time.sleep(0.002)
    return None
