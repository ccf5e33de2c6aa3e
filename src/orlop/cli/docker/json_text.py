"""JSON for people and for scripts: control characters that a terminal might obey are always escaped. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

# valid inside JSON strings, but not for a terminal: DEL, C1 and what turns the writing direction around
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def compact(data: Any) -> str:
    """On one line."""
    return _escaped(msgspec.json.encode(data))


def indented(data: Any) -> str:
    """As `inspect` prints it."""
    return _escaped(msgspec.json.format(msgspec.json.encode(data), indent=4))


def _escaped(raw: bytes) -> str:
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", raw.decode())
