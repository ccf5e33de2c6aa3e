"""Pax extended headers: records of `length key=value\\n` (POSIX.1-2017, pax, "pax Extended Header")."""

from __future__ import annotations

import re

from orlop.spec.errors import InvalidArgument, Unimplemented

Pax = dict[bytes, bytes]

XATTR = b"SCHILY.xattr."
# What hdrcharset may say. Both mean the same here, because names are bytes.
_CHARSETS = (b"", b"ISO-IR 10646 2000 UTF-8", b"ISO-IR 10646 2000 UTF-8\0", b"BINARY")
_TIME = re.compile(rb"(-?)(\d{1,19})(?:\.(\d*))?")
# Sparse format 0.0 repeats these keys; they are collected into one map, as format 0.1 has it.
_REPEATED = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def parse_records(body: bytes) -> Pax:
    """The records of one header. Later ones win; the pairs of sparse 0.0 become a `GNU.sparse.map`."""
    records: Pax = {}
    pairs: list[bytes] = []
    position, end = 0, len(body)
    while position < end:
        space = body.find(b" ", position, position + 21)
        digits = body[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise InvalidArgument(f"tar: pax record at byte {position} has no length")
        stop = position + int(digits)
        equals = body.find(b"=", space + 1, stop)
        if stop > end or equals < 0 or body[stop - 1] != 0x0A or equals == space + 1:
            raise InvalidArgument(f"tar: pax record at byte {position} is malformed")
        key, value = body[space + 1 : equals], body[equals + 1 : stop - 1]
        if key in _REPEATED:
            if _REPEATED[len(pairs) % 2] != key:
                raise InvalidArgument("tar: sparse offsets and sizes do not alternate")
            pairs.append(value)
        records[key] = value
        position = stop
    if pairs:
        records[b"GNU.sparse.map"] = b",".join(pairs)
    if records.get(b"hdrcharset", b"") not in _CHARSETS:
        raise Unimplemented(f"tar: hdrcharset {records[b'hdrcharset'][:40]!r} is not supported")
    return records


def parse_time(text: bytes) -> int:
    """Nanoseconds for a pax time, seconds with an optional fraction; digits beyond nanoseconds are dropped."""
    match = _TIME.fullmatch(text)
    if match is None or int(match[2]) >= 1 << 63:
        raise InvalidArgument(f"tar: time {text[:40]!r} is not a number of seconds")
    value = int(match[2]) * 1_000_000_000 + int((match[3] or b"").ljust(9, b"0")[:9])
    return -value if match[1] else value


def xattrs_of(pax: Pax, limit: int) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes (name, value) in the archive's order."""
    found = tuple((key[len(XATTR) :], value) for key, value in pax.items() if key.startswith(XATTR))
    if sum(len(name) + len(value) for name, value in found) > limit:
        raise InvalidArgument(f"tar: extended attributes hold more than the limit of {limit} bytes")
    return found


def format_record(key: bytes, value: bytes) -> bytes:
    """One record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    size = rest + len(str(rest))
    if len(str(size)) + rest != size:
        size = rest + len(str(size))
    return b"%d %s=%s\n" % (size, key, value)


def format_time(nanoseconds: int) -> bytes:
    """Seconds with only as many decimals as are needed."""
    sign, value = (b"-", -nanoseconds) if nanoseconds < 0 else (b"", nanoseconds)
    seconds, fraction = divmod(value, 1_000_000_000)
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")
