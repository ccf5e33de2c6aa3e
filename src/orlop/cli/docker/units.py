"""Sizes, durations and counts as Docker's users write and read them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from orlop.spec.errors import InvalidArgument

_SIZE = r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?"
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION = r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str, what: str) -> int:
    """Bytes of `64m`, `1.5g`, `512` (powers of 1024). -1 stays -1: no limit."""
    if text == "-1":
        return -1
    match = re.fullmatch(_SIZE, text.strip().lower(), re.ASCII)
    if not match:
        raise InvalidArgument(f"invalid size {text[:40]!r} for {what}: want a number with b, k, m or g")
    return int(float(match[1]) * 1024 ** _POWERS[match[2]])


def parse_duration(text: str, what: str) -> float:
    """Seconds of `1m30s`, `1.5h`, `500ms`."""
    if not text or "".join(m[0] for m in re.finditer(_DURATION, text)) != text:
        raise InvalidArgument(f"invalid duration {text[:40]!r} for {what}: want a form like 10s or 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_DURATION, text))


def parse_integer(text: str, what: str) -> int:
    """A whole number, in decimal."""
    if not re.fullmatch(r"-?\d{1,19}", text, re.ASCII):
        raise InvalidArgument(f"invalid argument {text[:40]!r} for {what}: want a whole number")
    return int(text)


def human_size(size: float, digits: int = 3) -> str:
    """`1.23MB`: powers of 1000, as Docker prints sizes (with four digits in `system df`)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.4g}{unit}" if size >= 999.5 else f"{size:.{digits}g}{unit}"
        size /= 1000
    raise AssertionError


def human_memory(size: float) -> str:
    """`1.944GiB`: powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.4g}{unit}"
        size /= 1024
    raise AssertionError


# under this many hours: what is said of them
_HOURS: tuple[tuple[int, Callable[[int], str]], ...] = (
    (2, lambda hours: "About an hour"),
    (48, lambda hours: f"{hours} hours"),
    (14 * 24, lambda hours: f"{hours // 24} days"),
    (60 * 24, lambda hours: f"{hours // 24 // 7} weeks"),
    (2 * 365 * 24, lambda hours: f"{hours // 24 // 30} months"),
)


def human_duration(seconds: float) -> str:
    """`About an hour`, `3 weeks`: Docker's words for how long ago."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds < 2 else f"{int(seconds)} seconds"
    minutes, hours = int(seconds // 60), int(seconds / 3600 + 0.5)
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    for limit, text in _HOURS:
        if hours < limit:
            return text(hours)
    return f"{int(seconds // 3600) // 24 // 365} years"
