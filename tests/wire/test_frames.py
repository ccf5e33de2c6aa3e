from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import Internal
from orlop.wire import frames
from orlop.wire.frames import Decoder, Frame

any_frame = st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300))


@given(st.lists(any_frame), st.integers(1, 50))
def test_frames_survive_any_cutting(sent: list[Frame], size: int) -> None:
    data = b"".join(frames.encode(frame.type, frame.payload, frame.stream) for frame in sent)
    decoder = Decoder()
    got = [frame for i in range(0, len(data), size) for frame in decoder.feed(data[i : i + size])]
    assert got == sent
    assert not decoder.partial


@given(st.binary(max_size=200))
def test_hostile_bytes_are_frames_or_refused(data: bytes) -> None:
    try:
        Decoder().feed(data)
    except Internal:
        pass


def test_refuses_a_length_beyond_the_limit() -> None:
    with pytest.raises(Internal, match="malformed"):
        Decoder().feed(b"\x41\0\0\0\x01\0\x01\0")


def test_long_input_is_cut_into_frames() -> None:
    got = Decoder().feed(frames.encode_stdin(b"x" * 150_000))
    assert [len(frame.payload) for frame in got] == [65536, 65536, 18928]


def test_answers_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(Internal, match="EXIT"):
        frames.decode_exit(Frame(frames.EXIT, 0, b"123"))
