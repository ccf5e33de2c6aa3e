"""D-Bus without input or output: messages, the opening of a connection, addresses (D-Bus specification 0.43).

A message is a fixed header, an array of header fields, padding to eight bytes, and a body whose types its signature
names. Values align to their size from the message's start. In Python a body is a tuple, an array a list (of bytes:
`bytes`; of entries: a dict), a structure a tuple, and a variant a `Variant`, which says its type.

What comes in is never trusted: `parse` raises `Internal`, and nothing else, on bytes that are no D-Bus.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from orlop.spec.errors import Internal, InvalidArgument, PermissionDenied

METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
# What a client sends first, in one go: its credentials are those of the socket (EXTERNAL with nothing claimed).
OPENING = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
MOST_BYTES = 16 << 20  # of a message; the specification allows 128 MiB, nobody that is called here needs them
_MOST_LINE = 4096  # of the opening's answer
_MOST_DEPTH = 32  # of nested arrays, structures and variants

# type: (struct's letter, size), which is the alignment too
_FIXED = {
    "y": ("B", 1),
    "n": ("h", 2),
    "q": ("H", 2),
    "b": ("I", 4),
    "i": ("i", 4),
    "u": ("I", 4),
    "h": ("I", 4),
    "x": ("q", 8),
    "t": ("Q", 8),
    "d": ("d", 8),
}
_ALIGNMENT = {name: size for name, (_, size) in _FIXED.items()} | dict.fromkeys("soa", 4) | {
    "g": 1, "v": 1, "(": 8, "{": 8
}  # fmt: skip
_CLOSING = {"(": ")", "{": "}"}
_HEADER = "yyyyuua(yv)"
_FIRST = 16  # bytes that tell how long a message is
# header field: (code, type)
_FIELDS = {
    "path": (1, "o"),
    "interface": (2, "s"),
    "member": (3, "s"),
    "error_name": (4, "s"),
    "reply_serial": (5, "u"),
    "destination": (6, "s"),
    "sender": (7, "s"),
    "signature": (8, "g"),
}
_FIELD_NAMES = {code: (name, type_) for name, (code, type_) in _FIELDS.items()}


class Variant(msgspec.Struct, frozen=True):
    """A value with its type, one complete type."""

    signature: str
    value: Any


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message; fields that a kind does not have are empty."""

    kind: int
    serial: int = 1
    flags: int = 0
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""
    body: tuple[Any, ...] = ()


# --- signatures


def types(signature: str) -> Iterator[str]:
    """The complete types of a signature. Raises InvalidArgument."""
    start = 0
    while start < len(signature):
        end = _end(signature, start, 0)
        yield signature[start:end]
        start = end


def _end(signature: str, start: int, depth: int) -> int:
    """Where the complete type that begins at `start` ends."""
    letter = signature[start : start + 1]
    if depth > _MOST_DEPTH or letter not in _ALIGNMENT or not letter:
        raise InvalidArgument(f"dbus: {signature[:80]!r} is no signature")
    if letter == "a":
        return _end(signature, start + 1, depth + 1)
    if letter not in _CLOSING:
        return start + 1
    position, members = start + 1, 0
    while signature[position : position + 1] != _CLOSING[letter]:
        position, members = _end(signature, position, depth + 1), members + 1
    if not members or (letter == "{" and (members != 2 or signature[start - 1 : start] != "a")):
        raise InvalidArgument(f"dbus: {signature[:80]!r} is no signature")
    return position + 1


# --- encoding


def marshal(signature: str, values: Sequence[Any], offset: int = 0) -> bytes:
    """The values of a signature, little endian, as they stand `offset` bytes into a message."""
    kinds = list(types(signature))
    if len(kinds) != len(values):
        raise InvalidArgument(f"dbus: {len(values)} values for {signature[:80]!r}")
    writer = _Writer(offset)
    for kind, value in zip(kinds, values, strict=True):
        writer.put(kind, value)
    return bytes(writer.data[offset:])


class _Writer:
    def __init__(self, offset: int) -> None:
        self.data = bytearray(offset)

    def align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def put(self, kind: str, value: Any) -> None:
        self.align(_ALIGNMENT[kind[0]])
        if kind in _FIXED:
            self._fixed(kind, value)
        elif kind in ("s", "o"):
            self._text(value, "<I")
        elif kind == "g":
            self._text(value, "<B")
        elif kind == "v":
            _end(value.signature, 0, 0)
            self._text(value.signature, "<B")
            self.put(value.signature, value.value)
        elif kind[0] == "a":
            self._array(kind[1:], value)
        else:
            for inner, member in zip(types(kind[1:-1]), value, strict=True):
                self.put(inner, member)

    def _fixed(self, kind: str, value: Any) -> None:
        try:
            self.data += struct.pack(f"<{_FIXED[kind][0]}", value)
        except struct.error:
            raise InvalidArgument(f"dbus: {value!r} is no value of type {kind}") from None

    def _text(self, text: str, length: str) -> None:
        data = text.encode()
        if b"\0" in data or (length == "<B" and len(data) > 255):
            raise InvalidArgument(f"dbus: {text[:80]!r} is no text that can be sent")
        self.data += struct.pack(length, len(data)) + data + b"\0"

    def _array(self, kind: str, value: Any) -> None:
        place = len(self.data)
        self.data += bytes(4)
        self.align(_ALIGNMENT[kind[0]])
        start = len(self.data)
        if kind == "y":
            self.data += bytes(value)
        else:
            for member in value.items() if kind[0] == "{" else value:
                self.put(kind, member)
        struct.pack_into("<I", self.data, place, len(self.data) - start)


def encode(message: Message) -> bytes:
    """A message as bytes."""
    body = marshal(message.signature, message.body)
    fields = [
        (code, Variant(type_, value)) for name, (code, type_) in _FIELDS.items() if (value := getattr(message, name))
    ]
    values = (ord("l"), message.kind, message.flags, 1, len(body), message.serial, fields)
    header = marshal(_HEADER, values)
    return header + bytes(-len(header) % 8) + body


# --- decoding


def parse(data: bytes) -> tuple[Message | None, int]:
    """The first message in `data` and how many bytes it takes; None and 0 where it is not complete yet."""
    if len(data) < _FIRST:
        return None, 0
    if data[0] not in b"lB" or data[3] != 1:
        raise Internal("dbus: what came is no message")
    order = "<" if data[0] == ord("l") else ">"
    body, fields = (struct.unpack_from(f"{order}I", data, place)[0] for place in (4, 12))
    start = _FIRST + fields + -fields % 8
    if start + body > MOST_BYTES:
        raise Internal(f"dbus: a message of {start + body} bytes came")
    if len(data) < start + body:
        return None, 0
    try:
        return _message(data[: start + body], order, start), start + body
    except (InvalidArgument, UnicodeDecodeError, IndexError, struct.error) as error:
        raise Internal(f"dbus: what came is no message: {error}") from None


def _message(data: bytes, order: str, start: int) -> Message:
    reader = _Reader(data, order)
    _, kind, flags, _, _, serial, fields = (reader.get(each) for each in types(_HEADER))
    found: dict[str, Any] = {}
    for code, variant in fields:
        if code in _FIELD_NAMES:
            name, type_ = _FIELD_NAMES[code]
            if variant.signature != type_:
                raise InvalidArgument(f"the field {name} is of type {variant.signature}")
            found[name] = variant.value
    reader.position = start
    body = tuple(reader.get(each) for each in types(found.get("signature", "")))
    return Message(kind=kind, serial=serial, flags=flags, body=body, **found)


class _Reader:
    """A hostile length leads out of the data, which the readers notice; nothing is made of a size that is only told."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data = data
        self.order = order
        self.position = 0

    def get(self, kind: str, depth: int = 0) -> Any:
        if depth > _MOST_DEPTH:
            raise InvalidArgument("it is nested too deep")
        self.position += -self.position % _ALIGNMENT[kind[0]]
        if kind in _FIXED:
            value = self._number(_FIXED[kind][0])
            return bool(value) if kind == "b" else value
        if kind in ("s", "o"):
            return self._text(self._number("I"))
        if kind == "g":
            return self._text(self._number("B"))
        if kind == "v":
            signature = self._text(self._number("B"))
            if _end(signature, 0, 0) != len(signature):
                raise InvalidArgument(f"a variant of type {signature!r}")
            return Variant(signature, self.get(signature, depth + 1))
        if kind[0] == "a":
            return self._array(kind[1:], depth + 1)
        return tuple([self.get(each, depth + 1) for each in types(kind[1:-1])])

    def _number(self, letter: str) -> Any:
        value = struct.unpack_from(self.order + letter, self.data, self.position)[0]
        self.position += struct.calcsize(self.order + letter)
        return value

    def _text(self, length: int) -> str:
        text = self._bytes(length)
        if self._bytes(1) != b"\0":
            raise InvalidArgument("a text has no end")
        return text.decode()

    def _bytes(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise InvalidArgument("it is cut")
        taken, self.position = self.data[self.position : end], end
        return bytes(taken)

    def _array(self, kind: str, depth: int) -> Any:
        length = self._number("I")
        self.position += -self.position % _ALIGNMENT[kind[0]]
        if kind == "y":
            return self._bytes(length)
        end = self.position + length
        if end > len(self.data):
            raise InvalidArgument("it is cut")
        found = []
        while self.position < end:
            found.append(self.get(kind, depth))
        if self.position != end:
            raise InvalidArgument("an array's members go beyond its end")
        return dict(found) if kind[0] == "{" and all(type(key) is not Variant for key, _ in found) else found


# --- the opening, and addresses


def opened(data: bytes) -> int:
    """How many bytes the whole answer to OPENING takes; 0 where it is not complete yet.

    It is `DATA`, for what nothing claimed, and `OK` with the server's number. Raises PermissionDenied for another.
    """
    lines = data.split(b"\r\n", 2)
    if len(lines) == 3 and lines[0].startswith(b"DATA") and lines[1].startswith(b"OK"):
        return len(data) - len(lines[2])
    for line in lines[:-1]:
        if not line.startswith((b"DATA", b"OK")):
            raise PermissionDenied(f"dbus: the bus does not let this user in: {line[:80].decode('ascii', 'replace')}")
    if len(lines) == 3 or len(data) > _MOST_LINE:
        raise Internal("dbus: what came is no answer to an opening")
    return 0


def socket_names(address: str) -> list[str]:
    """The Unix sockets of an address such as `unix:path=/run/user/1000/bus;unix:abstract=x`, in order, an abstract one
    with a NUL before it ("Server Addresses"). Other transports are left out."""
    found = []
    for entry in address.split(";"):
        transport, _, rest = entry.partition(":")
        keys = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if transport == "unix" and "path" in keys:
            found.append(_unescaped(keys["path"]))
        elif transport == "unix" and "abstract" in keys:
            found.append("\0" + _unescaped(keys["abstract"]))
    return found


def _unescaped(text: str) -> str:
    """Bytes are written as %2f."""
    first, *rest = text.split("%")
    result = first.encode()
    for part in rest:
        try:
            result += bytes.fromhex(part[:2]) + part[2:].encode()
        except ValueError:
            result += b"%" + part.encode()
    return result.decode("utf-8", "surrogateescape")
