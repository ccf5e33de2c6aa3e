"""Progress without a terminal: one line when a layer's state changes, as Docker prints it."""

from __future__ import annotations

from typing import TextIO

from orlop.engine.images import progress as told
from orlop.engine.images.progress import Progress

# what is said of a layer, by what is being done
WORDS: dict[str, dict[str, str]] = {
    "Pull": {
        told.WAITING: "Waiting",
        told.DOWNLOADING: "Pulling fs layer",
        told.EXTRACTING: "Extracting",
        told.EXISTS: "Already exists",
        told.DONE: "Pull complete",
    },
    "Push": {
        told.WAITING: "Preparing",
        told.UPLOADING: "Pushing",
        told.EXISTS: "Layer already exists",
        told.DONE: "Pushed",
    },
    "Load": {told.EXTRACTING: "Loading layer", told.EXISTS: "Already exists", told.DONE: "Loaded"},
}
FINAL = (told.EXISTS, told.DONE)
_SILENT = (told.WAITING, told.EXTRACTING)  # say nothing new where lines can't be overwritten


class Lines:
    """Writes each state of each blob once."""

    def __init__(self, stream: TextIO, verb: str) -> None:
        self._stream = stream
        self._words = WORDS[verb]
        self._last: dict[str, str] = {}

    def show(self, progress: Progress) -> None:
        """Called under a lock."""
        word = self._words.get(progress.action, "")
        before = self._last.get(progress.digest)
        if not word or progress.action in _SILENT or before == progress.action or before in FINAL:
            return
        self._last[progress.digest] = progress.action
        self._stream.write(f"{short(progress.digest)}: {word}\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left open."""


def short(digest: str) -> str:
    """Twelve hex digits."""
    return digest.partition(":")[2][:12]
