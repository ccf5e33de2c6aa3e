"""Shows a pull, push or load on a stream: bars on a terminal, lines elsewhere. Nothing is imported before there is
something to show."""

from __future__ import annotations

from _thread import allocate_lock  # threading.Lock, without what else is in threading
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from orlop.engine.images.progress import Progress


class Display(Protocol):
    """What draws."""

    def show(self, progress: Progress) -> None: ...
    def close(self) -> None: ...


class LazyProgress:
    """A `Watcher` (engine/progress.py), called from several threads; use it in a `with` block or call `close`.

    `heading` is printed before the first thing that is shown, so that a failure before that is all there is to read.
    """

    def __init__(self, stream: TextIO, verb: str = "Pull", heading: str = "") -> None:
        self._stream = stream
        self._verb = verb
        self._heading = heading
        self._display: Display | None = None
        self._closed = False
        self._lock = allocate_lock()

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            if self._closed:
                return
            if self._display is None:
                self._display = self._make()
            self._display.show(progress)

    def __enter__(self) -> LazyProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the stream stand as it is now."""
        with self._lock:
            self._closed = True
            if self._display is not None:
                self._display.close()

    def _make(self) -> Display:
        if self._heading:
            print(self._heading, file=self._stream, flush=True)
        if self._stream.isatty():
            from orlop.cli.docker.progress_bars import Bars

            return Bars(self._stream, self._verb)
        from orlop.cli.docker.progress_lines import Lines

        return Lines(self._stream, self._verb)
