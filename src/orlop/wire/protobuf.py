"""The little of Protocol Buffers' wire format that CRIU's requests need: varints and what is preceded by its length.

Sans I/O. Source: protobuf.dev, "Encoding". A message is a sequence of fields, each a key (number << 3 | wire type) and
a value; a field that occurs again is one more element of a list, or takes the place of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator

from orlop.spec.errors import InvalidArgument

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
_VARINT_MAX = 10  # bytes: 64 bits, seven in each


def varint(value: int) -> bytes:
    """A number of 64 bits, the lowest seven first; negative ones as two's complement."""
    value &= (1 << 64) - 1
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def number(field: int, value: int) -> bytes:
    """A field of type int32, uint32, bool or enum."""
    return varint(field << 3 | VARINT) + varint(value)


def data(field: int, value: bytes | str) -> bytes:
    """A field of type string, bytes or message; a path in a string may hold bytes that are no UTF-8."""
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return varint(field << 3 | LENGTH) + varint(len(raw)) + raw


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in their order: number and value. Raises InvalidArgument for what is cut or unknown."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == LENGTH:
            size, at = _varint(message, at)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise InvalidArgument(f"protobuf: wire type {kind} is unknown")
        if size > len(message) - at:
            raise InvalidArgument("protobuf: the message is cut")
        yield key >> 3, message[at : at + size]
        at += size


def signed(value: int) -> int:
    """A varint as the int32 or int64 that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_MAX):
        if at + index >= len(message):
            raise InvalidArgument("protobuf: the message is cut")
        byte = message[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & (1 << 64) - 1, at + index + 1
    raise InvalidArgument("protobuf: a number is longer than 64 bits")
