"""Progress on a terminal: a bar for each layer, drawn by rich."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from orlop.cli.docker.progress_lines import FINAL, WORDS, short
from orlop.engine.images import progress as told
from orlop.engine.images.progress import Progress

_BARS = {told.DOWNLOADING: "Downloading", told.UPLOADING: "Pushing", told.EXTRACTING: "Extracting"}


class Bars:
    """A line for each blob. While a layer is downloaded and unpacked at once, its line tells the download, then the
    rest of the unpacking."""

    def __init__(self, stream: TextIO, verb: str) -> None:
        self._words = WORDS[verb]
        self._tasks: dict[str, TaskID] = {}
        self._loaded: set[str] = set()
        self._bars = RichProgress(
            TextColumn("{task.fields[layer]}:", markup=False),
            TextColumn("{task.description:<14}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(),
            console=Console(file=stream, highlight=False, markup=False),
        )
        self._bars.start()

    def show(self, progress: Progress) -> None:
        """Called under a lock."""
        action = progress.action
        word = _BARS.get(action) or self._words.get(action)
        if not word or not progress.digest:
            return
        task = self._tasks.get(progress.digest)
        if task is None:
            task = self._bars.add_task(word, total=None, layer=short(progress.digest))
            self._tasks[progress.digest] = task
        if action in FINAL:
            total = self._bars.tasks[task].total or progress.total or 1
            self._bars.update(task, description=word, total=total, completed=total)
        elif action == told.EXTRACTING and progress.digest not in self._loaded:
            return
        else:
            self._bars.update(task, description=word, total=progress.total or None, completed=progress.done)
            if action == told.DOWNLOADING and progress.total and progress.done >= progress.total:
                self._loaded.add(progress.digest)

    def close(self) -> None:
        """Leave the bars as they are, the cursor below them."""
        self._bars.stop()
