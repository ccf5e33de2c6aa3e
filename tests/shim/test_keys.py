from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.shim.keys import KeyFinder, parse_detach_keys
from orlop.spec.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-@", b"\0"),
        ("a,ctrl-\\,DEL", b"a\x1c\x7f"),
        ("ctrl-A", b"\x01"),
    ],
)
def test_reads_docker_syntax(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-pp", "ctrl-", "ab", ",", "é", "ctrl-1"])
def test_refuses_unknown_keys(text: str) -> None:
    with pytest.raises(InvalidArgument, match="detach keys"):
        parse_detach_keys(text)


def test_repeated_first_key_still_begins_the_sequence() -> None:
    assert KeyFinder(b"pq").feed(b"ppq") == (b"p", True)


def test_lone_first_key_comes_out_with_the_next() -> None:
    finder = KeyFinder(b"pq")
    assert finder.feed(b"p") == (b"", False)
    assert finder.feed(b"x") == (b"px", False)


keys = st.binary(min_size=1, max_size=4).map(lambda b: bytes(97 + c % 2 for c in b))
typed = st.lists(st.binary(max_size=6).map(lambda b: bytes(97 + c % 3 for c in b)))


@given(keys, typed)
def test_finds_the_first_occurrence_and_loses_nothing(sequence: bytes, pieces: list[bytes]) -> None:
    finder, passed, found = KeyFinder(sequence), b"", False
    for piece in pieces:
        more, found = finder.feed(piece)
        passed += more
        if found:
            break
    whole = b"".join(pieces)
    at = whole.find(sequence)
    assert found == (at >= 0)
    assert passed + (b"" if found else finder.flush()) == (whole[:at] if found else whole)
