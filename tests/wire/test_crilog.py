from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import DataLoss
from orlop.wire import crilog
from orlop.wire.crilog import CRILine, decode_line, encode_line, encode_output

TIME = "2026-11-21T11:22:33.123456789Z"
texts = st.binary(max_size=100).map(lambda text: text.replace(b"\n", b" "))


def test_the_format_is_the_kubelets() -> None:
    assert encode_line(b"hello", "stdout", TIME) == b"2026-11-21T11:22:33.123456789Z stdout F hello\n"
    assert encode_line(b"hel", "stderr", TIME, partial=True) == b"2026-11-21T11:22:33.123456789Z stderr P hel\n"


@given(texts, st.sampled_from(["stdout", "stderr"]), st.booleans())
def test_entries_survive(text: bytes, stream: str, partial: bool) -> None:
    assert decode_line(encode_line(text, stream, TIME, partial)) == CRILine(text, stream, TIME, partial)


@given(st.integers(0, 3 * crilog.PIECE + 1))
def test_pieces_make_the_line(length: int) -> None:
    data = bytes(range(65, 91)) * (length // 26 + 1)
    lines = [decode_line(line) for line in encode_output(data[:length] + b"\n", "stdout", TIME).splitlines()]
    assert b"".join(line.text for line in lines) == data[:length]
    assert [line.partial for line in lines] == [True] * (len(lines) - 1) + [False]
    assert all(len(line.text) <= crilog.PIECE for line in lines)


def test_words_without_a_newline_are_a_piece() -> None:
    assert encode_output(b"half", "stdout", TIME) == encode_line(b"half", "stdout", TIME, partial=True)


@given(st.binary(max_size=80))
def test_hostile_bytes_are_entries_or_refused(data: bytes) -> None:
    try:
        decode_line(data)
    except DataLoss:
        pass


def test_what_others_write_is_read() -> None:
    assert decode_line(b"2016-10-06T00:17:09.669794202+02:00 stdout P:tag x y \n").text == b"x y "
    assert decode_line(b"2016-10-06T00:17:09Z stderr F\n") == CRILine(b"", "stderr", "2016-10-06T00:17:09Z", False)
    assert decode_line(b"2016-10-06T00:17:09Z stderr F ").time_ns == 1475713029 * 10**9


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b"", "not time"),
        (b"yesterday stdout F x", "no RFC 3339"),
        (b"2016-10-06T00:17:09Z stdin F x", "stream"),
        (b"2016-10-06T00:17:09Z stdout Q x", "tag"),
        (b"\xff stdout F x", "decode"),
    ],
)
def test_damage_is_named(line: bytes, match: str) -> None:
    with pytest.raises(DataLoss, match=match):
        decode_line(line)
