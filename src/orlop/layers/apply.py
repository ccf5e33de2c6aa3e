"""Apply a layer: decompress, digest and unpack one stream, in one pass.

The calling thread reads, inflates and hashes (all of which release the GIL); a second one writes the tree. The caller's
thread is the one that may block on a download, so that the other can always be stopped at once.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from orlop.layers.decompress import Counted, Readable, chunks
from orlop.layers.limits import Applied, Limits, Ownership, WhiteoutFormat
from orlop.layers.unpack import Unpacker
from orlop.spec.errors import os_errors

_AHEAD = 4  # chunks that may wait for the writer


def apply(
    stream: Readable,
    compression: str,
    target: Path | str | int,
    whiteouts: WhiteoutFormat = WhiteoutFormat.OVERLAY,
    limits: Limits | None = None,
    progress: Callable[[int], object] | None = None,
    *,
    ownership: Ownership | None = None,
) -> Applied:
    """Unpack the layer in `stream` (compressed as `compression`: "gzip", "zstd" or "") into the existing directory
    `target`: for the overlay formats a fresh one of this layer alone, for REMOVE a copy of the layers below.

    `stream` is read to its end. `progress` hears the number of bytes read, as they are read. Nothing is verified
    against a manifest: the caller compares `diff_id`. On an error the target holds part of the layer and is the
    caller's to remove. Raises InvalidArgument (malformed or hostile), ResourceExhausted (limits, full disk),
    PermissionDenied, and what `stream.read` raises.
    """
    limits = limits or Limits()
    with os_errors("open layer target"):
        root = (
            os.dup(target) if isinstance(target, int) else os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        )
    try:
        return _run(Counted(stream, progress), compression, root, whiteouts, limits, ownership or Ownership())
    finally:
        os.close(root)


def _run(
    source: Counted, compression: str, root: int, whiteouts: WhiteoutFormat, limits: Limits, ownership: Ownership
) -> Applied:
    unpacker = Unpacker(root, whiteouts, limits, ownership)
    writer = _Writer(unpacker)
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in chunks(source, compression, limits):
            writer.put(chunk)
            digest.update(chunk)
            size += len(chunk)
        writer.finish()
    finally:
        writer.stop()
        unpacker.close()
    return Applied(
        diff_id=f"sha256:{digest.hexdigest()}",
        size=size,
        entries=unpacker.entries,
        read=source.count,
        implied=unpacker.implied,
        warnings=tuple(unpacker.warnings),
    )


class _Writer:
    """The second thread: takes chunks from a bounded queue. Its error comes out of `put` or `finish`."""

    def __init__(self, unpacker: Unpacker) -> None:
        self._unpacker = unpacker
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._failed: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="orlop-unpack", daemon=True)
        self._thread.start()

    def put(self, chunk: bytes) -> None:
        self._queue.put(chunk)
        self._check()

    def finish(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._check()

    def stop(self) -> None:
        """End the thread, whatever it has left to do."""
        self._abandoned = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _work(self) -> None:
        while (chunk := self._queue.get()) is not None:
            if self._failed is None and not self._abandoned:
                self._attempt(lambda chunk=chunk: self._unpacker.feed(chunk))  # type: ignore[misc]
        if self._failed is None and not self._abandoned:
            self._attempt(self._unpacker.finish)

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:  # kept for the thread that waits for us
            self._failed = error
