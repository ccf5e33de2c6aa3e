"""Points in time as Docker's `--since` and `--until` take them. Pure.

RFC 3339 with or without its parts (`2026-11-21`, `2026-11-21T11:22`, `...:33.5Z`; without a zone it is local time),
seconds since the epoch with a fraction (`1136073600.000000001`), or a duration before now (`1h30m`, `42s`).
"""

from __future__ import annotations

import re

from orlop.spec.errors import InvalidArgument
from orlop.wire.logline import parse_time

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+", re.ASCII)
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_EPOCH = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d(?:\.\d{1,9})?))?)?)?(Z|[+-]\d\d:\d\d)?", re.ASCII)


def parse_duration(text: str) -> int:
    """Go's durations, in nanoseconds. Raises InvalidArgument.

    >>> parse_duration("1h30m")
    5400000000000
    """
    if not _DURATION.fullmatch(text):
        raise InvalidArgument(f"duration {text[:40]!r}: want a number and ns, us, ms, s, m or h, as in 1h30m")
    total = sum(_scale(number, _UNITS[unit]) for number, unit in _PART.findall(text))
    return -total if text.startswith("-") else total


def _scale(number: str, unit: int) -> int:
    whole, _, fraction = number.partition(".")
    return int(whole or "0") * unit + int(fraction or "0") * unit // int(10 ** len(fraction))


def parse_moment(text: str, now_ns: int, utc_offset: int = 0, field: str = "time") -> int:
    """Nanoseconds since the epoch. `utc_offset`: seconds east of UTC, for times that don't say their zone."""
    if match := _EPOCH.fullmatch(text):
        return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))
    if match := _DATE.fullmatch(text):
        day, hour, minute, second, zone = match.groups()
        try:
            time = parse_time(f"{day}T{hour or '00'}:{minute or '00'}:{second or '00'}{zone or 'Z'}")
        except ValueError as error:
            raise InvalidArgument(f"{field} {text[:40]!r}: {error}") from error
        return time if zone else time - utc_offset * 10**9
    if _DURATION.fullmatch(text):
        return now_ns - parse_duration(text)
    raise InvalidArgument(f"{field} {text[:40]!r}: want RFC 3339, seconds since the epoch, or a duration as in 1h30m")
