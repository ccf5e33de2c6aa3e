"""`prune --filter`: `until` and `label`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from orlop.cli.docker.filters import has_label, parse_filters
from orlop.wire.moment import parse_moment


class PruneFilter:
    """What may go: what was made before `until`, and has every label that `label` names and none of `label!`."""

    def __init__(self, texts: Sequence[str], known: Sequence[str]) -> None:
        found = parse_filters(texts, known)
        moments = [
            parse_moment(text, time.time_ns(), time.localtime().tm_gmtoff, "until") for text in found.get("until", ())
        ]
        self._before = min(moments) / 1e9 if moments else None
        self.labels = tuple(found.get("label", ()))
        self._without = tuple(found.get("label!", ()))

    def __call__(self, created: float, labels: dict[str, str]) -> bool:
        if self._before is not None and created >= self._before:
            return False
        return all(has_label(labels, text) for text in self.labels) and not any(
            has_label(labels, text) for text in self._without
        )
