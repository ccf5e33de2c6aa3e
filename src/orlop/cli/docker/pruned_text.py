"""What prune commands print."""

from __future__ import annotations

from collections.abc import Sequence

from orlop.cli.docker.units import human_size
from orlop.cli.text import one_line
from orlop.engine.images.remove import Removed


def heading(title: str, names: Sequence[str]) -> None:
    """A title and what went, if anything did."""
    if names:
        print("\n".join([f"{title}:", *map(one_line, names)]) + "\n")


def image_lines(removed: Removed) -> list[str]:
    """As `docker image prune` words it."""
    return [f"untagged: {text}" for text in removed.untagged] + [f"deleted: {text}" for text in removed.deleted]


def total(freed: int) -> None:
    """The last line."""
    print(f"Total reclaimed space: {human_size(freed, 4)}")
