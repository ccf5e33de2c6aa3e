"""What pulling, pushing, loading and saving tell whoever watches."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

RESOLVING, WAITING, DOWNLOADING, EXTRACTING = "resolving", "waiting", "downloading", "extracting"
UPLOADING, EXISTS, DONE = "uploading", "exists", "done"


class Progress(msgspec.Struct, frozen=True):
    """One step of one blob: `digest` names it, `action` is one of the words above, `done` of `total` bytes. While a
    layer is downloaded and unpacked at once, both are told, each with its own count. EXISTS and DONE come last.
    """

    digest: str
    action: str
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        return f"{self.digest.partition(':')[2][:12]}: {self.action} {self.done}/{self.total}"


Watcher = Callable[[Progress], object]  # called from several threads


def nobody(_: Progress) -> None:
    """For when nobody watches."""
