"""Numbers and strings in the fixed fields of a tar header."""

from __future__ import annotations

from orlop.spec.errors import InvalidArgument

_PAD = b"\0 "


def field_bytes(block: bytes, start: int, end: int) -> bytes:
    """A string field: up to its first NUL, or all of it."""
    return block[start:end].partition(b"\0")[0]


def number(field: bytes, what: str, *, signed: bool = False) -> int:
    """An octal number, or a base-256 one when the first byte's top bit is set (GNU). Non-negative unless `signed`;
    below 2**63 always, as every consumer of it is the kernel."""
    text = field.strip(_PAD)
    if text.isdigit() and not (b"8" in text or b"9" in text):  # nearly always
        return int(text, 8)
    if field[0] & 0x80:
        return _base256(field, what, signed)
    text = text.partition(b"\0")[0].rstrip()
    if text and not (text.isdigit() and text.translate(None, b"89") == text):
        raise InvalidArgument(f"tar: {what} field is {field!r}, want octal digits")
    return int(text or b"0", 8)


def _base256(field: bytes, what: str, signed: bool) -> int:
    # 0x80 marks a positive number, 0xff a negative one in two's complement over the whole field.
    value = (
        int.from_bytes(field, "big", signed=True)
        if field[0] == 0xFF
        else int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
    )
    if value < 0 and not signed:
        raise InvalidArgument(f"tar: {what} is negative")
    if not -(1 << 63) <= value < 1 << 63:
        raise InvalidArgument(f"tar: {what} is beyond 64 bits")
    return value


def octal(value: int, width: int) -> bytes:
    """`value` for a field of `width` bytes: octal with a NUL, or base-256 when it does not fit."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    if value >= 0:
        return bytes([0x80]) + value.to_bytes(width - 1, "big")
    return value.to_bytes(width, "big", signed=True)
