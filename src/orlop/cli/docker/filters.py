"""`--filter key=value`: several of one key mean any of them, several keys mean all. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from orlop.spec.errors import InvalidArgument

T = TypeVar("T")
Test = Callable[[T, str], bool]


def parse_filters(texts: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    """Values by their keys. Raises InvalidArgument for what is no filter here."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().lower()
        if not equals:
            raise InvalidArgument(f"invalid filter {text[:60]!r}: want name=value")
        if key not in known:
            raise InvalidArgument(f"invalid filter {key[:40]!r}: there are {', '.join(sorted(known))}")
        found.setdefault(key, []).append(value.strip())
    return found


def select(items: Sequence[T], texts: Sequence[str], tests: dict[str, Test[T]]) -> list[T]:
    """The items that pass. Of `label` filters every one must hold, as with Docker."""
    wanted = parse_filters(texts, tuple(tests))
    return [item for item in items if all(_passes(item, key, values, tests[key]) for key, values in wanted.items())]


def _passes(item: T, key: str, values: list[str], test: Test[T]) -> bool:
    combine = all if key == "label" else any
    return combine(test(item, value) for value in values)


def has_label(labels: dict[str, str], text: str) -> bool:
    """`key`, or `key=value`."""
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)


def truth(text: str, key: str) -> bool:
    """`true`, `1`, `false`, `0`."""
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise InvalidArgument(f"invalid filter '{key}={text[:40]}': want true or false")
