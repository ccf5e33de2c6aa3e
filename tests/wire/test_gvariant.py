"""The text form of values: GLib's own examples, and text from anybody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import InvalidArgument
from orlop.wire.dbus import Variant
from orlop.wire.gvariant import parse


@pytest.mark.parametrize(
    ("text", "signature", "value"),
    [
        ("true", "b", True),
        ("5", "i", 5),
        (" -0x1f ", "i", -31),
        ("010", "i", 8),
        ("uint64 123456789", "t", 123456789),
        ("1.5", "d", 1.5),
        ("1e3", "d", 1000.0),
        ("double 5", "d", 5.0),
        ("'inactive-or-failed'", "s", "inactive-or-failed"),
        (r'"a\"b\n\u00e9"', "s", 'a"b\né'),
        ("['a', \"b\",]", "as", ["a", "b"]),
        ("@as []", "as", []),
        ("[uint32 1, 2]", "au", [1, 2]),
        ("@at [1, 2]", "at", [1, 2]),
        ("[byte 1, 255]", "ay", b"\x01\xff"),
        ("b'ab'", "ay", b"ab\0"),
        ("('a', 1, true)", "(sib)", ("a", 1, True)),
        ("[('/dev/null', 'rw')]", "a(ss)", [("/dev/null", "rw")]),
        ("{'a': <1>, 'b': <'x'>}", "a{sv}", {"a": Variant("i", 1), "b": Variant("s", "x")}),
        ("@a{ss} {}", "a{ss}", {}),
        ("objectpath '/a'", "o", "/a"),
    ],
)
def test_values(text: str, signature: str, value: Any) -> None:
    assert parse(text) == Variant(signature, value)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "5 6", "'a", "[1, 'a']", "[]", "{}", "()", "byte 256", "uint64 -1", "@", "@ss 'a'", "@as 'a'", "5x",
        "string 5", "boolean 1", "[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]", "{['a']: 1}", "<1",
        r"'\ud800'", "99999999999",
    ],
)  # fmt: skip
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


@given(st.text("ab@[](){}<>,:'\"\\ 01.ux-tru e", max_size=30))
def test_text_from_anybody_is_a_value_or_refused(text: str) -> None:
    try:
        parse(text)
    except InvalidArgument:
        pass
