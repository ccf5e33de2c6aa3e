"""The sum of the blobs in the store, kept as long as it holds."""

from __future__ import annotations

import time
from threading import Lock

import msgspec

from orlop.engine.engine import Engine


class Use(msgspec.Struct, frozen=True):
    """Bytes and inodes."""

    size: int = 0
    inodes: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(self.size + other.size, self.inodes + other.inodes)


class Blobs:
    """The sum of the blobs. The directory's time of change tells whether one has come or gone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._changed = -1
        self._use = Use()

    def use(self) -> Use:
        directory = self._engine.paths.content / "blobs" / "sha256"
        try:
            changed = directory.stat().st_mtime_ns
        except FileNotFoundError:
            return Use()
        with self._lock:
            # a change within the clock's last tick may not be the last one in it
            if changed != self._changed or time.time_ns() - changed < 50_000_000:
                sizes = [blob.size for blob in self._engine.content.walk()]
                self._use, self._changed = Use(sum(sizes), len(sizes)), changed
            return self._use
