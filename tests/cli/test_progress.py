from __future__ import annotations

import io

from orlop.cli.docker.lazy_progress import LazyProgress
from orlop.engine.images import progress as told
from orlop.engine.images.progress import Progress

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def test_lines_say_each_state_of_each_layer_once() -> None:
    stream = io.StringIO()
    with LazyProgress(stream, heading="Unable to find image 'x' locally") as watcher:
        for step in (
            Progress(A, told.WAITING, 0, 10),
            Progress(A, told.DOWNLOADING, 0, 10),
            Progress(B, told.EXISTS),
            Progress(A, told.DOWNLOADING, 5, 10),
            Progress(A, told.EXTRACTING, 5, 10),
            Progress(A, told.DONE, 10, 10),
            Progress(A, told.DONE, 10, 10),
        ):
            watcher(step)
    assert stream.getvalue().splitlines() == [
        "Unable to find image 'x' locally",
        "aaaaaaaaaaaa: Pulling fs layer",
        "bbbbbbbbbbbb: Already exists",
        "aaaaaaaaaaaa: Pull complete",
    ]


def test_nothing_is_said_where_nothing_happens_or_after_the_end() -> None:
    stream = io.StringIO()
    watcher = LazyProgress(stream, heading="heading")
    watcher.close()
    watcher(Progress(A, told.DOWNLOADING, 0, 1))
    assert stream.getvalue() == ""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal() -> None:
    stream = _Terminal()
    with LazyProgress(stream, "Push") as watcher:
        watcher(Progress(A, told.UPLOADING, 0, 1000))
        watcher(Progress(A, told.UPLOADING, 1000, 1000))
        watcher(Progress(A, told.DONE))
        watcher(Progress(B, told.EXISTS))
    assert "aaaaaaaaaaaa" in stream.getvalue()
    assert "Layer already exists" in stream.getvalue()
