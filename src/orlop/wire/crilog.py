"""Lines of the log format that a kubelet reads (CRI). Sans I/O.

`2026-11-21T11:22:33.123456789Z stdout F text` and a newline. `P` marks a piece whose line goes on in the next entry of
the same stream, `F` the end of one; further tags may follow either, after colons. The text is bytes as they
came: nothing is escaped, and only a newline can't be in it. native/shim.c writes the same bytes; a test holds the two
together.
"""

from __future__ import annotations

import msgspec

from orlop.spec.errors import DataLoss
from orlop.wire.logline import STREAMS, parse_time

PIECE = 16384  # bytes of text in one entry, at most, when Orlop writes


class CRILine(msgspec.Struct, frozen=True):
    """One entry. `text` is without the newline."""

    text: bytes
    stream: str
    time: str  # RFC 3339, as written
    partial: bool  # the line goes on

    @property
    def time_ns(self) -> int:
        return parse_time(self.time)


def encode_line(text: bytes, stream: str, time: str, partial: bool = False) -> bytes:
    """An entry, newline included. The caller has cut `text` at newlines and into pieces."""
    return b"%s %s %c %s\n" % (time.encode(), stream.encode(), b"P" if partial else b"F", text)


def encode_output(data: bytes, stream: str, time: str) -> bytes:
    """All entries for a line, cut into pieces of PIECE bytes. Last words without a newline are a piece too."""
    text = data.removesuffix(b"\n")
    cuts = range(0, max(len(text), 1), PIECE)
    unended = len(text) == len(data)
    return b"".join(encode_line(text[at : at + PIECE], stream, time, unended or at + PIECE < len(text)) for at in cuts)


def decode_line(line: bytes) -> CRILine:
    """An entry, with or without its newline. Raises DataLoss where the line is none."""
    fields = line.removesuffix(b"\n").split(b" ", 3)
    if len(fields) == 3:
        fields.append(b"")  # other runtimes leave out the last space of an empty line
    if len(fields) != 4:
        raise DataLoss(f"log line of {len(line)} bytes: not time, stream, tag and text")
    time, stream, tags, text = fields
    try:
        parse_time(time.decode())
    except ValueError as error:
        raise DataLoss(f"log line of {len(line)} bytes: {error}") from error
    if stream.decode("ascii", "replace") not in STREAMS:
        raise DataLoss(f"log line: unknown stream {stream[:20]!r}")
    tag = tags.split(b":")[0]
    if tag not in (b"P", b"F"):
        raise DataLoss(f"log line: unknown tag {tags[:20]!r}")
    return CRILine(text, stream.decode(), time.decode(), tag == b"P")
