"""Text that came from elsewhere, made fit for a terminal. Pure."""

from __future__ import annotations

import re
from functools import cache

# C0 without tab and newline, DEL and C1 (some terminals obey 0x9b like ESC [), what turns the writing direction
# around (Unicode's bidirectional controls), and halves of surrogate pairs, which can't be written at all
_UNSAFE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


def one_line(text: str) -> str:
    """The text with every control character escaped, line ends too.

    >>> one_line("a\\x1b[2Jb\\n")
    'a\\\\x1b[2Jb\\\\n'
    """
    return text if text.isprintable() else _pattern(_UNSAFE + "|[\t\n]").sub(_escape, text)


def lines(text: str) -> str:
    """Like `one_line`, but tabs and line ends stay."""
    return text if text.isprintable() else _pattern(_UNSAFE).sub(_escape, text)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Compiled only when there is something to look for: it costs more than all else here."""
    return re.compile(text)


def _escape(match: re.Match[str]) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(match[0]) or _coded(ord(match[0]))


def _coded(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
