"""The functions of Go's text/template and those that Docker adds, and how Go prints values. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from orlop.cli.docker.json_text import compact

NO_VALUE = "<no value>"
_LONGEST = 1 << 16  # characters that padding may make


class Fault(Exception):
    """The template can't be applied to this data."""


def member(value: Any, name: str) -> Any:
    """`.Name` of a value."""
    if isinstance(value, dict):
        if name in value:
            return value[name]
        if name[:1].isupper() and value and all(key[:1].isupper() for key in value):
            raise Fault(f"can't evaluate field {name[:60]}: there is no such field")
        return None
    if value is None:
        return None
    raise Fault(f"can't evaluate field {name[:60]} in {_kind(value)}")


def truth(value: Any) -> bool:
    """Whether `if` takes its first branch: anything but nothing, nought and what is empty."""
    return bool(value)


def show(value: Any) -> str:
    """As Go's fmt prints it with %v."""
    if value is None:
        return NO_VALUE
    return _inner(value)


def _inner(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_inner(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_inner(item) for item in value) + "]"
    return "<nil>" if value is None else str(value)


def _kind(value: Any) -> str:
    kinds = {bool: "a truth value", str: "a string", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "this value")


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, "")
        elif isinstance(value, (list, tuple, str)) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise Fault(f"index out of range: {key}")
            value = value[key]
        elif value in (None, ""):
            raise Fault("index of nothing")
        else:
            raise Fault(f"can't index {_kind(value)}")
    return value


def _slice(value: Any, *ends: int) -> Any:
    start, stop = (*ends, *(0, len(value))[len(ends) :]) if len(ends) < 2 else ends[:2]
    if not 0 <= start <= stop <= len(value):
        raise Fault(f"slice index out of range: {start}:{stop}")
    return value[start:stop]


def _and(*values: Any) -> Any:
    return next((value for value in values if not value), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if value), values[-1])


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise Fault("eq: missing argument for comparison")
    return any(type(first) is type(other) and first == other for other in others)


def _printf(format: str, *values: Any) -> str:
    """Go's verbs %s %v %d %q %t %x %f %%, with width and precision."""
    left = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match[1], match[2]
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        value = left.pop(0)
        if verb in "sv":
            return _padded(flags, show(value))
        if verb == "q":
            return _padded(flags, compact(str(value)))
        if verb == "t":
            return _padded(flags, show(bool(value)))
        return _padded("", f"%{_checked(flags)}{verb}" % value)

    return re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([svdqtxXfgeo%])", one, format)


def _checked(flags: str) -> str:
    if any(int(number) > _LONGEST for number in re.findall(r"\d+", flags)):
        raise Fault("printf: too wide")
    return flags


def _padded(flags: str, text: str) -> str:
    return f"%{_checked(flags).lstrip('+0# ')}s" % text


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _pad(text: str, before: int, after: int) -> str:
    if not text or max(before, after) > _LONGEST:
        return text
    return " " * before + text + " " * after


def _title(text: str) -> str:
    return re.sub(r"(^|\s)(\S)", lambda match: match[1] + match[2].upper(), text)


def _join(items: Any, separator: str) -> str:
    return separator.join(show(item) for item in items or ())


def _print(*values: Any) -> str:
    """Go's Sprint: a space between two operands when neither is a string."""
    text = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            text += " "
        text += _inner(value)
    return text


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not truth(value),
    "eq": _eq,
    "ne": lambda first, second: not _eq(first, second),
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "index": _index,
    "slice": _slice,
    "len": len,
    "print": _print,
    "println": lambda *values: " ".join(map(_inner, values)) + "\n",
    "printf": _printf,
    "json": compact,
    "join": _join,
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "lower": str.lower,
    "upper": str.upper,
    "title": _title,
    "pad": _pad,
    "truncate": _truncate,
}
