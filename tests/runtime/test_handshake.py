from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.runtime.handshake import CLONED, FAILED, SYNC, Handshake, Message, parse_message
from orlop.spec.errors import Internal


def message(kind: int, value: int = 0, text: str = "") -> Message:
    return Message(kind, 0, 0, value, text)


def test_a_launch_runs_once_the_connection_ends() -> None:
    state = Handshake().heard(message(CLONED, 42)).heard(message(SYNC, text="created"))
    assert state.phase == "waiting"
    state = state.answered()
    assert (state.phase, state.pid) == ("cloned", 42)
    assert state.ended().phase == "running"


def test_the_last_clone_is_the_process() -> None:
    state = Handshake().heard(message(CLONED, 42)).heard(message(CLONED, 43))
    assert (state.pid, state.pids) == (43, (42, 43))


def test_a_sync_point_before_the_first_clone_goes_back_to_preparing() -> None:
    state = Handshake().heard(message(SYNC)).answered()
    assert state.phase == "preparing"
    assert state.ended().phase == "died"


def test_a_helper_that_ends_before_it_cloned_has_died() -> None:
    assert Handshake().ended().phase == "died"


@pytest.mark.parametrize("kind", [CLONED, SYNC, FAILED, 0, 4, 1 << 31])
def test_nothing_may_follow_a_failure(kind: int) -> None:
    failed = Handshake().heard(message(FAILED, 1))
    assert failed.phase == "failed"
    with pytest.raises(Internal):
        failed.heard(message(kind))


def test_a_helper_that_speaks_while_it_is_to_wait_is_refused() -> None:
    with pytest.raises(Internal, match="sync while waiting"):
        Handshake().heard(message(SYNC)).heard(message(SYNC))


def test_messages_are_four_numbers_and_a_text() -> None:
    assert parse_message(struct.pack("<IIIi", 3, 1, 7, 13) + b"/data") == Message(3, 1, 7, 13, "/data")


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        parse_message(data)
    except Internal:
        assert len(data) < 16
