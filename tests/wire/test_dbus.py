"""The D-Bus codec: the specification's examples, round trips, bytes from anybody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import Internal, InvalidArgument, PermissionDenied
from orlop.wire import dbus
from orlop.wire.dbus import Message, Variant, encode, marshal, parse, types

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 255),
    "b": st.booleans(),
    "n": st.integers(-(1 << 15), (1 << 15) - 1),
    "q": st.integers(0, (1 << 16) - 1),
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
    "u": st.integers(0, (1 << 32) - 1),
    "x": st.integers(-(1 << 63), (1 << 63) - 1),
    "t": st.integers(0, (1 << 64) - 1),
    "d": st.floats(allow_nan=False),
    "s": TEXT,
    "o": st.just("/a/b"),
    "g": st.just("a(sv)"),
}


def _values(depth: int) -> st.SearchStrategy[tuple[str, Any]]:
    """A type with a value of it."""
    scalar = st.sampled_from(sorted(SCALARS)).flatmap(lambda k: SCALARS[k].map(lambda v: (k, v)))
    if depth == 0:
        return scalar
    inner = _values(depth - 1)
    structure = st.lists(inner, min_size=1, max_size=3).map(
        lambda members: (f"({''.join(k for k, _ in members)})", tuple(v for _, v in members))
    )
    array = inner.map(lambda pair: ("a" + pair[0], b"\x01\x02" if pair[0] == "y" else [pair[1], pair[1]]))
    entries = inner.map(lambda pair: ("a{s" + pair[0] + "}", {"one": pair[1], "two": pair[1]}))
    variant = inner.map(lambda pair: ("v", Variant(*pair)))
    return st.one_of(scalar, structure, array, entries, variant)


@given(st.lists(_values(3), max_size=5), st.text("abc", max_size=5))
def test_what_is_sent_is_what_comes(values: list[tuple[str, Any]], tail: str) -> None:
    message = Message(
        kind=dbus.METHOD_CALL, serial=7, path="/org", interface="a.b", member="C", destination="d.e",
        signature="".join(kind for kind, _ in values), body=tuple(value for _, value in values),
    )  # fmt: skip
    data = encode(message)
    assert parse(data + tail.encode()) == (message, len(data))
    assert parse(data[:-1])[0] is None or not values


@given(st.binary(max_size=200))
def test_bytes_from_anybody_are_a_message_or_refused(data: bytes) -> None:
    for head in (b"", b"l\1\0\1", b"B\4\0\1"):
        try:
            message, taken = parse(head + data)
        except Internal:
            continue
        assert (message is None) == (taken == 0)


@given(st.data())
def test_a_damaged_message_is_a_message_or_refused(source: st.DataObject) -> None:
    data = bytearray(
        encode(Message(kind=dbus.SIGNAL, path="/a", signature="a(sv)as", body=([("x", Variant("t", 5))], ["y"])))
    )
    for _ in range(source.draw(st.integers(1, 4))):
        data[source.draw(st.integers(0, len(data) - 1))] = source.draw(st.integers(0, 255))
    try:
        parse(bytes(data))
    except Internal:
        pass


def test_values_align_as_the_specification_has_it() -> None:
    assert marshal("yu", (1, 2)) == b"\1\0\0\0\2\0\0\0"
    assert marshal("s", ("foo",)) == b"\3\0\0\0foo\0"
    assert marshal("at", ([5],)) == b"\x08\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0"  # the padding before a member is not counted
    assert marshal("v", (Variant("b", True),)) == b"\1b\0\0\1\0\0\0"
    assert marshal("yay", (1, b"\xff")) == b"\1\0\0\0\1\0\0\0\xff"


def test_a_message_of_a_machine_of_the_other_byte_order() -> None:
    data = b"B\4\0\1\0\0\0\4\0\0\0\1\0\0\0\7\x08\1g\0\1u\0\0\0\0\0\x09"
    message, taken = parse(data)
    assert message is not None
    assert (message.body, taken) == ((9,), len(data))


@pytest.mark.parametrize("signature", ["a", "(", "()", "z", "{ss}", "a{s}", "a{sss}", "(s", "a" * 40 + "s", ")"])
def test_no_signature(signature: str) -> None:
    with pytest.raises(InvalidArgument, match="is no signature"):
        list(types(signature))


@pytest.mark.parametrize(("kind", "value"), [("y", 256), ("u", -1), ("t", 1 << 64), ("s", "a\0b"), ("u", "x")])
def test_what_is_no_value_of_its_type(kind: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^dbus: "):
        marshal(kind, (value,))


def test_a_size_that_is_only_told_takes_no_memory() -> None:
    with pytest.raises(Internal, match="a message of"):
        parse(b"l\1\0\1" + b"\xff" * 12)


def test_the_opening() -> None:
    assert dbus.opened(b"DATA\r\nOK 0123\r\n") == 15
    assert dbus.opened(b"DATA\r\nOK 0123\r\nl\1") == 15
    assert dbus.opened(b"DATA\r\nOK 01") == 0
    assert dbus.opened(b"") == 0
    with pytest.raises(PermissionDenied, match="does not let this user in: REJECTED EXTERNAL"):
        dbus.opened(b"REJECTED EXTERNAL\r\n")
    with pytest.raises(Internal):
        dbus.opened(b"x" * 5000)


def test_addresses() -> None:
    address = "unix:path=/run/user/1000/bus,guid=5;tcp:host=x;unix:abstract=/tmp/a%2cb;unix:tmpdir=/tmp"
    assert dbus.socket_names(address) == ["/run/user/1000/bus", "\0/tmp/a,b"]
    assert dbus.socket_names("") == []
