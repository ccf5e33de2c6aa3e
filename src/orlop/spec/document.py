"""JSON documents of the standards: parsed once into types, with the raw bytes kept.

A digest is over bytes, so a document that came from outside is never re-encoded to be stored or sent. `Document.raw`
is what arrived; `Document.value` is what it says. Fields that the types do not know survive `merged`, which writes
changes back over the original.
"""

from __future__ import annotations

from _thread import allocate_lock
from typing import Any, Generic, TypeVar

import msgspec

from orlop.spec.digest import Digest
from orlop.spec.errors import InvalidArgument

T = TypeVar("T")


class Document(msgspec.Struct, Generic[T], frozen=True):
    """A parsed value beside the exact bytes it came from."""

    value: T
    raw: bytes

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)


def known(kind: type[T]) -> type[T]:
    """The type, to decode to. With the first use of one msgspec works out what it has to know of its fields, and calls
    Python for that: a second thread that comes by meanwhile finds it half done, and the process dies of it. So one
    thread at a time does it, and everything that decodes to a type asks here first."""
    if kind not in _known:
        with _one_at_a_time:
            msgspec.json.Decoder(kind)
            _known.add(kind)
    return kind


_known: set[type] = set()
_one_at_a_time = allocate_lock()


def parse(raw: bytes, kind: type[T], what: str) -> Document[T]:
    """Decode `raw` as `kind`. `what` names the document in the error, which carries the JSON path."""
    return Document(decode(raw, kind, what), bytes(raw))


def decode(raw: bytes, kind: type[T], what: str) -> T:
    """Decode JSON, or raise `InvalidArgument` with one line: what, the JSON path, and what was wrong there.

    A field that is null is one that is absent: so the tools write it that are written in Go, and so they read it.
    """
    try:
        return msgspec.json.decode(raw, type=known(kind))
    except msgspec.ValidationError as error:
        if b"null" in raw:
            try:
                return msgspec.convert(_without_nulls(msgspec.json.decode(raw)), type=kind)
            except (msgspec.ValidationError, RecursionError):
                pass  # the first error says it better
        text, at, path = str(error).partition(" - at ")
        where = path.strip("`") if at else "$"
        raise InvalidArgument(f"{what}: {where}: {_lower(text)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{what}: not valid JSON: {_lower(str(error))}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def encode(value: Any) -> bytes:
    """Compact JSON of a typed value, deterministic in field order."""
    return msgspec.json.encode(value)


def merged(original: bytes, value: Any) -> bytes:
    """The JSON of `value`, laid over `original`: fields of the original that the types do not know are kept.

    A list in `value` takes the original's list elements of the same index as its base only where the lengths agree.
    """
    return msgspec.json.encode(_merge(msgspec.json.decode(original), msgspec.to_builtins(value), type(value)))


def _merge(old: Any, new: Any, kind: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        known = _known_fields(kind)
        kept = {key: item for key, item in old.items() if key not in new and key not in known}
        return kept | {key: _merge(old.get(key), item, _field_type(kind, key)) for key, item in new.items()}
    if isinstance(old, list) and isinstance(new, (list, tuple)) and len(old) == len(new):
        return [_merge(a, b, _element_type(kind)) for a, b in zip(old, new, strict=True)]
    return new


def _struct_in(kind: Any) -> Any:
    """The Struct class inside a type such as `Foo | None`, or None."""
    info = msgspec.inspect.type_info(kind) if kind is not None else None
    options = getattr(info, "types", (info,))
    return next((o.cls for o in options if isinstance(o, msgspec.inspect.StructType)), None)


def _known_fields(kind: Any) -> set[str]:
    """JSON names that the type knows; all names, for a plain mapping, where a missing key means removal."""
    struct = _struct_in(kind)
    if struct is None:
        return _Everything()
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def _field_type(kind: Any, name: str) -> Any:
    struct = _struct_in(kind)
    if struct is None:
        return None
    return next((f.type for f in msgspec.structs.fields(struct) if f.encode_name == name), None)


def _element_type(kind: Any) -> Any:
    for option in getattr(kind, "__args__", ()) or ():
        if option is not type(None) and option is not Ellipsis:
            return _element_type(option) if getattr(option, "__origin__", None) in (list, tuple) else option
    return None


class _Everything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


def _lower(text: str) -> str:
    text = text.rstrip(".").replace("\n", " ")
    return text if text[:2].isupper() else text[:1].lower() + text[1:]  # JSON stays what it is
