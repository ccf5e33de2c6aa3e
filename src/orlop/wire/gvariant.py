"""The text form of typed values, in which annotations give properties of units (GLib, "GVariant Text Format").

    true   5   uint64 500000   'text'   ['a', 'b']   @as []   (1, 'x')   {'key': <5>}   <'in a variant'>   b'bytes'

A number without a type is an int32, with a point or exponent a double; a type before the first member of an array is
that of all.
"""

from __future__ import annotations

import re
from typing import Any

from orlop.spec.errors import InvalidArgument
from orlop.wire.dbus import Variant, marshal, types

_KEYWORDS = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "handle": "h", "int64": "x",
    "uint64": "t", "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_INTEGERS = "ynqiuhxt"
_MOST_DEPTH = 16
_WORD, _STRING = r"[A-Za-z][A-Za-z0-9]*", r"""b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*\""""


def parse(text: str) -> Variant:
    """The value of a text. Raises InvalidArgument."""
    parser = _Parser(text)
    found = parser.value("", 0)
    if parser.peek():
        raise parser.wrong()
    marshal("v", (found,))  # numbers that their type does not hold, structures with members of another
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        token = re.compile(
            rf"\s*({_STRING}|@[a-z(){{}}]+|{_WORD}|[-+]?[0-9.][0-9A-Za-z.+-]*|[\[\](){{}}<>,:])", re.DOTALL
        )
        self.text = text
        self.tokens: list[str] = []
        place = 0
        while text[place:].strip():
            found = token.match(text, place)
            if not found:
                raise self.wrong()
            self.tokens.append(found[1])
            place = found.end()
        self.tokens.reverse()

    def wrong(self) -> InvalidArgument:
        return InvalidArgument(f"{self.text[:80]!r} is no value such as true, uint64 5, 'text' or ['a', 'b']")

    def peek(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def take(self, wanted: str = "") -> str:
        if not self.tokens or (wanted and self.tokens[-1] != wanted):
            raise self.wrong()
        return self.tokens.pop()

    def value(self, type_: str, depth: int) -> Variant:
        """The next value; of `type_`, where that is known."""
        if depth > _MOST_DEPTH:
            raise self.wrong()
        token = self.take()
        if token in ("true", "false"):
            return self._typed("b", token == "true", type_)
        if token in _KEYWORDS:
            return self._as(_KEYWORDS[token], type_, depth)
        if token[0] == "@":
            if len(list(types(token[1:]))) != 1:
                raise self.wrong()
            return self._as(token[1:], type_, depth)
        if token[0] in "'\"":
            return self._typed(type_ if type_ in ("o", "g") else "s", self._unquoted(token), type_)
        if token[:2] in ("b'", 'b"'):
            return self._typed("ay", self._unquoted(token[1:]).encode("latin-1", "replace") + b"\0", type_)
        if token[0] in "+-.0123456789":
            return self._number(token, type_)
        if token in ("[", "(", "{", "<"):
            act = {"[": self._array, "(": self._structure, "{": self._entries, "<": self._variant}[token]
            return act(type_, depth + 1)
        raise self.wrong()

    def _as(self, type_: str, wanted: str, depth: int) -> Variant:
        if wanted not in ("", type_):
            raise self.wrong()
        return self.value(type_, depth + 1)

    def _typed(self, type_: str, value: Any, wanted: str) -> Variant:
        if wanted not in ("", type_):
            raise self.wrong()
        return Variant(type_, value)

    def _unquoted(self, token: str) -> str:
        def character(found: re.Match[str]) -> str:
            if found[1][0] in "uU" and len(found[1]) > 1:
                number = int(found[1][1:], 16)
                if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                    raise self.wrong()
                return chr(number)
            return _ESCAPES.get(found[1], found[1])

        return re.sub(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", character, token[1:-1], flags=re.DOTALL)

    def _number(self, token: str, type_: str) -> Variant:
        point = any(letter in token.lower() for letter in ".e") and "x" not in token.lower()
        type_ = type_ or ("d" if point else "i")
        try:
            if type_ == "d":
                return Variant("d", float(token))
            if type_ in _INTEGERS:
                return Variant(type_, int(token, 8 if re.fullmatch(r"[-+]?0[0-7]+", token) else 0))
        except ValueError:
            pass
        raise self.wrong()

    def _array(self, type_: str, depth: int) -> Variant:
        inner = type_[1:] if type_[:1] == "a" else ""
        if type_ and not inner:
            raise self.wrong()
        members = []
        while self.peek() != "]":
            member = self.value(inner, depth)
            inner = member.signature
            members.append(member.value)
            self._comma("]")
        self.take("]")
        if not inner:
            raise InvalidArgument(f"{self.text[:80]!r}: an empty array needs its type before it, as in @as []")
        return Variant("a" + inner, bytes(members) if inner == "y" and _are_bytes(members) else members)

    def _comma(self, end: str) -> None:
        if self.peek() != end:
            self.take(",")

    def _structure(self, type_: str, depth: int) -> Variant:
        wanted = list(types(type_[1:-1])) if type_[:1] == "(" else []
        if type_ and not wanted:
            raise self.wrong()
        members: list[Variant] = []
        while self.peek() != ")":
            members.append(self.value(wanted[len(members)] if len(members) < len(wanted) else "", depth))
            self._comma(")")
        self.take(")")
        signature = f"({''.join(member.signature for member in members)})"
        return self._typed(signature, tuple(member.value for member in members), type_ if members else "x")

    def _entries(self, type_: str, depth: int) -> Variant:
        key, value = (list(types(type_[2:-1])) if type_[:2] == "a{" else []) or ("", "")
        if type_ and not key:
            raise self.wrong()
        found: dict[Any, Any] = {}
        while self.peek() != "}":
            first = self.value(key, depth)
            self.take(":")
            second = self.value(value, depth)
            key, value = first.signature, second.signature
            if key not in (*_INTEGERS, "b", "d", "s", "o", "g"):
                raise self.wrong()
            found[first.value] = second.value
            self._comma("}")
        self.take("}")
        if not key:
            raise InvalidArgument(
                f"{self.text[:80]!r}: an empty dictionary needs its type before it, as in @a{{ss}} {{}}"
            )
        return Variant(f"a{{{key}{value}}}", found)

    def _variant(self, type_: str, depth: int) -> Variant:
        inner = self.value("", depth)
        self.take(">")
        return self._typed("v", inner, type_)


def _are_bytes(members: list[Any]) -> bool:
    return all(0 <= member < 256 for member in members)
