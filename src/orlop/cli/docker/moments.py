"""Points in time as Docker's columns and JSON have them. Pure."""

from __future__ import annotations

import time

from orlop.cli.docker.units import human_duration
from orlop.wire.logline import format_time, parse_time

NEVER = "0001-01-01T00:00:00Z"  # Go's zero time


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch in RFC 3339; 0 is Go's zero time."""
    return format_time(int(seconds * 1e9)) if seconds else NEVER


def seconds_of(text: str) -> float | None:
    """RFC 3339 as an image has it, or None: images write what they like there."""
    try:
        return parse_time(text) / 1e9
    except ValueError:
        return None


def ago(text: str, now: float) -> str:
    """`3 weeks ago`; `N/A` where there is no time, or Go's zero time."""
    seconds = seconds_of(text)
    return "N/A" if seconds is None or seconds < -6e10 else human_duration(now - seconds) + " ago"


def local(text: str) -> str:
    """`2026-11-21 12:00:00 +0000 UTC`."""
    seconds = seconds_of(text)
    if seconds is None or seconds < -6e10:
        return "N/A"
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))
