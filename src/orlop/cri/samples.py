"""What was seen of containers before: rates need two looks, and measuring a directory is dear."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

import msgspec

from orlop._stubs.cri import api_pb2 as api

_INTERVAL = 1_000_000_000  # nanoseconds that a rate is taken over, at least
_DISK_AGE = 10.0  # seconds that a measured size of a writable layer counts, at least
_DISK_SHARE = 50  # and this many times what measuring took, so that big ones don't keep the disk busy


class _Sample(msgspec.Struct, frozen=True):
    time: int
    total: int


class Samples:
    """Safe for several threads. Times are nanoseconds since the epoch."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._cpu: dict[str, tuple[_Sample, _Sample]] = {}
        self._disk: dict[str, tuple[float, api.FilesystemUsage]] = {}  # with the end of its time

    def rate(self, identifier: str, now: int, total: int, started: float) -> int:
        """Billionths of a core in use since the look before the last one that lies an interval back."""
        latest = _Sample(now, total)
        with self._lock:
            older, newer = self._cpu.get(identifier, (_Sample(int(started * 1e9), 0), latest))
            if now - newer.time >= _INTERVAL:
                older, newer = newer, latest
            self._cpu[identifier] = (older, newer)
        elapsed = now - older.time
        return max(0, (total - older.total) * 1_000_000_000 // elapsed) if elapsed > 0 else 0

    def disk(self, identifier: str, measure: Callable[[], api.FilesystemUsage]) -> api.FilesystemUsage:
        moment = time.monotonic()
        with self._lock:
            found = self._disk.get(identifier)
        if found is not None and moment < found[0]:
            return found[1]
        usage = measure()
        took = time.monotonic() - moment
        with self._lock:
            self._disk[identifier] = (moment + max(_DISK_AGE, took * _DISK_SHARE), usage)
        return usage

    def forget(self, living: set[str]) -> None:
        with self._lock:
            for gone in (set(self._cpu) | set(self._disk)) - living:
                self._cpu.pop(gone, None)
                self._disk.pop(gone, None)
