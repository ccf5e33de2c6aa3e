"""A device specification in YAML as the same one in JSON. Pure; imported where a file is YAML, as PyYAML takes 10 ms.

PyYAML reads YAML 1.1, in which `22:22` is a number, `no` a truth value and `2001-01-01` a date. What a plain word means
here is YAML 1.2's core schema, and octal numbers may have the older form too: it is what mode bits are written in.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import msgspec
import yaml

from orlop.spec.errors import InvalidArgument

_MOST = 200_000  # values, with what aliases stand for written out
_DEEPEST = 32


class _Loader(yaml.SafeLoader):
    """Plain values alone, and no key twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own

    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("str", "int", "float", "bool", "null", "seq", "map")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no word", key.start_mark)
            if key.value in found:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            found[key.value] = self.construct_object(value, deep)
        return found


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value
    octal = re.fullmatch(r"([-+]?)0o?([0-7]+)", text)
    return int(octal[1] + octal[2], 8) if octal else int(text, 16 if text.startswith("0x") else 10)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def as_json(raw: bytes, what: str) -> bytes:
    """Raises InvalidArgument with the line where it can."""
    try:
        loader = _Loader(raw)
        try:
            document = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise InvalidArgument(f"{what}: {_said(error)}") from None
    _measure(document, what)
    return msgspec.json.encode(document)


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"[:200]
    if isinstance(error, LookupError):  # `!!bool word`
        return f"{str(error)[:100]} is no value of the kind that its tag names"
    return " ".join(str(error).split())[:200]


def _measure(document: object, what: str) -> None:
    """An alias costs nothing to write and all that it stands for to read."""
    waiting, count = [(document, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > _MOST or depth > _DEEPEST:
            raise InvalidArgument(f"{what}: has more than {_MOST} values, or is nested deeper than {_DEEPEST}")
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]
