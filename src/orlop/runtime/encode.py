"""The binary form in which a plan reaches the launch helper, and back. Pure.

"ORLP"  u32 version  u32 inherited descriptors  u32 stages
a stage:      u32 operations
an operation: u16 code  u8 skip mask  u8 zero  u32 length of what follows, its fields in the table's order
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from orlop.runtime.ops import CODES, NUMBERS, Op
from orlop.runtime.plan import Plan, Stage, Step
from orlop.spec.errors import InvalidArgument

MAGIC = b"ORLP"
VERSION = 1
_NUMERIC = {"i32": "<i", "slot": "<i", "fill": "<i", "u32": "<I", "i64": "<q", "u64": "<Q"}


def encode(plan: Plan, inherited: int = 0) -> bytes:
    """The bytes of a plan whose helper inherits so many descriptors."""
    parts = [MAGIC, struct.pack("<III", VERSION, inherited, len(plan.stages))]
    for stage in plan.stages:
        parts.append(struct.pack("<I", len(stage.steps)))
        parts += [
            _often(step.op, step.skip) if type(step.op) in _PLAIN else _op(step.op, step.skip) for step in stage.steps
        ]
    return b"".join(parts)


def _op(op: Op, skip: int) -> bytes:
    kind = type(op)
    code, fields = _FIELDS.get(kind) or _fields(kind)
    body = b"".join([write(getattr(op, name), name) for name, write in fields])
    return _HEAD.pack(code, skip, 0, len(body)) + body


# Most operations are the same in one container's plan as in the next one's. What a program is given is not among them:
# it may be long, or a secret.
_often = lru_cache(1024)(_op)
_PLAIN = frozenset(kind for kind, fields in CODES.values() if not {"bytes", "strs"} & {type_ for _, type_ in fields})


def _fields(kind: type[Op]) -> tuple[int, _Fields]:
    """How an operation's fields are written; looked up once for each kind, since a plan has a hundred operations."""
    code = NUMBERS[kind]
    _FIELDS[kind] = found = code, tuple((name, _WRITERS[type_]) for name, type_ in CODES[code][1])
    return found


def _writer(form: str) -> _Write:
    pack = struct.Struct(form).pack

    def number(value: int, name: str) -> bytes:
        try:
            return pack(value)
        except struct.error:
            raise InvalidArgument(f"{name} {value} is out of range") from None

    return number


def _text(value: str, name: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    if b"\0" in raw:
        raise InvalidArgument(f"{name} {value[:80]!r} contains a NUL character")
    return _LENGTH.pack(len(raw)) + raw + b"\0"


def _bytes(value: bytes, name: str) -> bytes:
    return _LENGTH.pack(len(value)) + bytes(value)


def _texts(values: Sequence[str], name: str) -> bytes:
    return _LENGTH.pack(len(values)) + b"".join([_text(value, name) for value in values])


def _numbers(values: Sequence[int], name: str) -> bytes:
    return _LENGTH.pack(len(values)) + b"".join([_WRITERS["u32"](value, name) for value in values])


_Write = Callable[[Any, str], bytes]
_Fields = tuple[tuple[str, _Write], ...]
_HEAD, _LENGTH = struct.Struct("<HBBI"), struct.Struct("<I")
_FIELDS: dict[type[Op], tuple[int, _Fields]] = {}
_WRITERS: dict[str, _Write] = {type_: _writer(form) for type_, form in _NUMERIC.items()}
_WRITERS |= {"str": _text, "bytes": _bytes, "strs": _texts, "u32s": _numbers}


def decode(data: bytes) -> tuple[Plan, int]:
    """A plan (without its origins) and the number of inherited descriptors."""
    reader = _Reader(data)
    if reader.take(4) != MAGIC or reader.number("<I") != VERSION:
        raise InvalidArgument("not an encoded plan of this version")
    inherited, count = reader.number("<I"), reader.number("<I")
    stages = tuple(_decode_stage(reader, index) for index in range(count))
    if reader.at != len(data):
        raise InvalidArgument("encoded plan: something follows its end")
    return Plan(stages), inherited


def _decode_stage(reader: _Reader, index: int) -> Stage:
    return Stage(f"stage {index}", tuple(_decode_step(reader) for _ in range(reader.number("<I"))))


def _decode_step(reader: _Reader) -> Step:
    code, skip, _ = reader.number("<H"), reader.number("<B"), reader.number("<B")
    end = reader.number("<I") + reader.at
    if code not in CODES:
        raise InvalidArgument(f"encoded plan: unknown operation {code}")
    kind, fields = CODES[code]
    op: Op = kind(*(_decode_field(reader, field) for _, field in fields))
    if reader.at != end:
        raise InvalidArgument(f"encoded plan: {kind.__name__} has a wrong length")
    return Step(op, "", skip)


def _decode_field(reader: _Reader, kind: str) -> Any:
    if kind in _NUMERIC:
        return reader.number(_NUMERIC[kind])
    if kind == "str":
        return reader.text()
    count = reader.number("<I")
    if kind == "bytes":
        return reader.take(count)
    return tuple(reader.text() if kind == "strs" else reader.number("<I") for _ in range(count))


class _Reader:
    """Takes values off the front of a buffer; anything beyond its end is an InvalidArgument."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise InvalidArgument("encoded plan is truncated")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        assert isinstance(value, int)
        return value

    def text(self) -> str:
        raw = self.take(self.number("<I"))
        if self.take(1) != b"\0":
            raise InvalidArgument("encoded plan: a string does not end in NUL")
        return raw.decode("utf-8", "surrogateescape")
