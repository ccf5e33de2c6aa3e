"""Lines of Docker's json-file log format. Sans I/O.

One entry is `{"log":"text\\n","stream":"stdout","time":"2026-11-21T11:22:33.123456789Z"}` and a newline. An entry
without the newline in its text is a piece of a longer line (16 KiB at most each), or the end of output that did not end
in one. native/shim.c writes the same bytes; a test holds the two together.
"""

from __future__ import annotations

import re

import msgspec

from orlop.spec.document import known
from orlop.spec.errors import DataLoss

STREAMS = ("stdout", "stderr")
PIECE = 16384  # bytes of text in one entry, at most

_SPECIAL = re.compile('[\x00-\x1f"\\\\<>&\u2028\u2029]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)


class LogLine(msgspec.Struct, frozen=True):
    """One entry of a log. `text` keeps its newline. `note` marks a remark of the reader's own, on damage it met."""

    text: str
    stream: str
    time: str  # RFC 3339, as written
    note: bool = False

    @property
    def time_ns(self) -> int:
        return parse_time(self.time)

    @property
    def number(self) -> int:
        """The stream as a descriptor number."""
        return STREAMS.index(self.stream) + 1


class _Entry(msgspec.Struct):
    stream: str
    time: str
    log: str = ""


_decoder = msgspec.json.Decoder(known(_Entry))


def encode_line(text: bytes, stream: str, time: str) -> bytes:
    """An entry, newline included. Bytes that are not UTF-8 become U+FFFD, one each, as Docker's driver writes them."""
    escaped = _SPECIAL.sub(_escape, text.decode("utf-8", "surrogateescape"))
    escaped = re.sub("[\udc80-\udcff]", r"\\ufffd", escaped)
    return f'{{"log":"{escaped}","stream":"{stream}","time":"{time}"}}\n'.encode()


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}"


def decode_line(line: bytes) -> LogLine:
    """Raises DataLoss where the line is no entry."""
    try:
        entry = _decoder.decode(line)
        parse_time(entry.time)
    except (msgspec.DecodeError, ValueError) as error:
        raise DataLoss(f"log line of {len(line)} bytes: {error}") from error
    if entry.stream not in STREAMS:
        raise DataLoss(f"log line: unknown stream {entry.stream[:20]!r}")
    return LogLine(entry.log, entry.stream, entry.time)


def parse_time(text: str) -> int:
    """RFC 3339 as nanoseconds since the epoch. Raises ValueError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"no RFC 3339 time: {text[:40]!r}")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
        raise ValueError(f"no such time: {text[:40]!r}")
    seconds = _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
    if match[8]:
        offset = int(match[9]) * 3600 + int(match[10]) * 60
        seconds += offset if match[8] == "-" else -offset
    return seconds * 1_000_000_000 + int((match[7] or "").ljust(9, "0"))


def format_time(time_ns: int) -> str:
    """The opposite, in UTC, with trailing zeros of the fraction cut (Go's RFC3339Nano)."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    days, second = divmod(seconds, 86400)
    year, month, day = _date(days)
    text = f"{year:04}-{month:02}-{day:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return text + (f".{fraction:09}".rstrip("0") if fraction else "") + "Z"


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a date in the Gregorian calendar. The year is counted from March, so that the leap day
    is its last; `datetime` would cost its import on a path that has to be quick."""
    year -= month <= 2
    return year * 365 + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469


def _date(days: int) -> tuple[int, int, int]:
    era, day = divmod(days + 719468, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    in_year = day - (365 * year + year // 4 - year // 100)
    month = (5 * in_year + 2) // 153
    return (
        year + era * 400 + (month >= 10),
        month + 3 if month < 10 else month - 9,
        in_year - (153 * month + 2) // 5 + 1,
    )
