"""Garbage collection beside the calls: images that are gone take their layers along without anybody waiting long."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, Timer

from orlop.engine.engine import Engine
from orlop.spec.errors import OrlopError

log = logging.getLogger("orlop.cri.collector")
INTERVAL = 3600.0  # seconds; what failed pulls have brought is kept that long at least, for their repetition
PATIENCE = 2.0  # seconds that RemoveImage waits for its disk space; the rest happens after it


class Collector:
    """One collection at a time; whoever asks while one runs gets the next one, together with others who ask."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="orlop-gc")
        self._next: Future[None] | None = None
        self._timer: Timer | None = None
        self._closed = False

    def keep(self) -> None:
        """Collect now, as a daemon before this one may have been about to, and every INTERVAL from then on."""
        with self._lock:
            if self._closed:
                return
            self._timer = Timer(INTERVAL, self.keep)
            self._timer.daemon = True
            self._timer.start()
            self._submit()

    def begin(self) -> Future[None]:
        """A collection that sees all that has happened up to now. What goes wrong in it is logged."""
        with self._lock:
            return self._submit()

    def _submit(self) -> Future[None]:
        if self._next is None:
            self._next = self._pool.submit(self._collect)
        return self._next

    def after_removal(self) -> None:
        """A container has gone, perhaps the last one of an image that is only kept for it."""
        if self._engine.images.has_removed():
            self.begin()

    def _collect(self) -> None:
        with self._lock:
            self._next = None
        try:
            collected = self._engine.images.collect()
        except OrlopError as error:
            log.error("garbage collection: %s", error)
        except Exception:
            log.exception("garbage collection failed")
        else:
            if collected.freed:
                log.info("garbage collection: freed %d bytes", collected.freed)

    def close(self) -> None:
        """Wait for the collection that is under way."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        self._pool.shutdown()
