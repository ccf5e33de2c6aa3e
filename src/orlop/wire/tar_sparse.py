"""Maps of sparse files: old GNU headers, and GNU's three pax formats (GNU tar manual, "Storing Sparse Files")."""

from __future__ import annotations

import re
from typing import NamedTuple

from orlop.spec.errors import InvalidArgument
from orlop.wire.tar_numbers import number
from orlop.wire.tar_pax import Pax

BLOCK = 512
_MAX = 1 << 63


class Segment(NamedTuple):
    """A range of a file that holds data; the rest is holes."""

    offset: int
    length: int


def old_map(block: bytes) -> tuple[Segment, ...]:
    """The four pairs in an old GNU header."""
    return _pairs(block, 386, 4)


def real_size(block: bytes) -> int:
    """The file's length in an old GNU header; its size field counts what is stored."""
    return number(block[483:495], "sparse size")


def extension(block: bytes) -> tuple[tuple[Segment, ...], bool]:
    """(pairs, whether another block follows) of an extension block."""
    return _pairs(block, 0, 21), bool(block[504])


def _pairs(block: bytes, start: int, count: int) -> tuple[Segment, ...]:
    found = []
    for at in range(start, start + 24 * count, 24):
        if not block[at]:
            break  # an unused pair
        found.append(
            Segment(number(block[at : at + 12], "sparse offset"), number(block[at + 12 : at + 24], "sparse length"))
        )
    return tuple(found)


def pax_map(pax: Pax) -> tuple[Segment, ...]:
    """Formats 0.0 and 0.1: `offset,length,offset,length,...`."""
    text = pax.get(b"GNU.sparse.map", b"")
    parts = text.split(b",") if text else []
    if len(parts) % 2:
        raise InvalidArgument("tar: sparse map has an odd number of values")
    values = [_value(part) for part in parts]
    return tuple(map(Segment, values[::2], values[1::2]))


_LINE = re.compile(rb"(\d{1,19})\n")


def parse_map_block(data: bytes) -> tuple[tuple[Segment, ...], int] | None:
    """Format 1.0: (segments, bytes used up to the next block) from the start of the contents; None when `data` ends
    inside the map."""
    lines = _lines(data, 0, 1)
    if lines is None:
        return None
    (count,), position = lines
    if count > len(data) and count > 1 << 20:
        raise InvalidArgument(f"tar: sparse map claims {count} segments")
    lines = _lines(data, position, 2 * count)
    if lines is None:
        return None
    values, position = lines
    used = position + -position % BLOCK
    return None if used > len(data) else (tuple(map(Segment, values[::2], values[1::2])), used)


def _lines(data: bytes, position: int, count: int) -> tuple[list[int], int] | None:
    values: list[int] = []
    for _ in range(count):
        match = _LINE.match(data, position)
        if match is None:
            if b"\n" in data[position : position + 21] or len(data) - position > 20:
                raise InvalidArgument(f"tar: sparse map holds {data[position : position + 20]!r}, want decimal lines")
            return None
        values.append(int(match[1]))
        position = match.end()
    return values, position


def _value(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise InvalidArgument(f"tar: sparse map holds {text[:40]!r}, want decimal numbers")
    return int(text)


def validated(segments: tuple[Segment, ...], size: int, stored: int, name: bytes) -> None:
    """Refuse a map that is out of order, overlaps, leaves the file or does not add up to the stored bytes."""
    end = total = 0
    for offset, length in segments:
        if offset < end or offset + length > size or offset + length >= _MAX:
            raise InvalidArgument(f"tar: sparse map of {name[:160]!r} is out of order or beyond the file's end")
        end = offset + length
        total += length
    if total != stored:
        raise InvalidArgument(f"tar: sparse map of {name[:160]!r} covers {total} bytes but {stored} are stored")
