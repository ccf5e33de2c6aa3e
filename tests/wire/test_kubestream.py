from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import InvalidArgument
from orlop.wire import kubestream
from orlop.wire.kubestream import (
    REMOTE_COMMAND,
    REMOTE_COMMAND_WEBSOCKET,
    Protocol,
    Size,
    SizeDecoder,
    Status,
    choose,
    decode_message,
    decode_status,
    encode_exit,
    encode_failure,
    encode_message,
    encode_size,
)

V1, V4 = REMOTE_COMMAND["channel.k8s.io"], REMOTE_COMMAND["v4.channel.k8s.io"]
protocols = st.sampled_from(list(REMOTE_COMMAND_WEBSOCKET.values()))


def test_the_clients_order_decides() -> None:
    assert choose(["v9.channel.k8s.io", "v2.channel.k8s.io", "v4.channel.k8s.io"], REMOTE_COMMAND) == Protocol(
        "v2.channel.k8s.io", 2
    )
    assert choose(["v9.channel.k8s.io"], REMOTE_COMMAND) is None


@given(st.integers(0, 9), st.binary(max_size=50), protocols)
def test_messages_survive(channel: int, data: bytes, protocol: Protocol) -> None:
    assert decode_message(encode_message(channel, data, protocol), protocol) == (channel, data)


@given(st.binary(max_size=50), protocols)
def test_hostile_messages_are_read_or_refused(data: bytes, protocol: Protocol) -> None:
    try:
        decode_message(data, protocol)
    except InvalidArgument:
        pass


@given(st.integers(0, 255))
def test_exit_codes_survive(code: int) -> None:
    assert decode_status(encode_exit(code, V4)).exit_code == code


def test_the_status_is_that_of_kubernetes() -> None:
    assert json.loads(encode_exit(0, V4)) == {"metadata": {}, "status": "Success"}
    failed = json.loads(encode_exit(3, V4))
    assert (failed["status"], failed["reason"]) == ("Failure", "NonZeroExitCode")
    assert failed["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert decode_status(encode_failure("no such container", V4)) == Status(None, "no such container")


def test_old_versions_have_text() -> None:
    assert encode_exit(0, V1) == b""
    assert encode_exit(3, V1) == b"command terminated with exit code 3"
    assert encode_failure("no such container", V1) == b"no such container"


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[]}}']
)
def test_what_is_no_status_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match="no status"):
        decode_status(text)


@given(st.lists(st.builds(Size, st.integers(0, 65535), st.integers(0, 65535))), st.integers(1, 30))
def test_sizes_survive_any_cutting(sizes: list[Size], cut: int) -> None:
    data = b"".join(encode_size(size) for size in sizes)
    decoder = SizeDecoder()
    assert [size for at in range(0, len(data), cut) for size in decoder.feed(data[at : at + cut])] == sizes


@given(st.lists(st.binary(max_size=60)))
def test_hostile_sizes_are_read_or_refused(pieces: list[bytes]) -> None:
    decoder = SizeDecoder()
    try:
        for piece in pieces:
            decoder.feed(piece)
    except InvalidArgument:
        pass


@pytest.mark.parametrize(
    "text",
    [
        b"80x24",
        b"[80,24]",
        b'{"Width":-1,"Height":24}',
        b'{"Width":80,"Height":70000}',
        b'{"Width":"80"}',
        b'{"Width":true}',
        b'{"Width":1.5}',
        b'{"a":}',
        b'{"a":"' + b"x" * 5000,
    ],
)
def test_what_is_no_size_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match="terminal size"):
        SizeDecoder().feed(text)


def test_ports() -> None:
    assert kubestream.port((("streamtype", "data"), ("port", "80"))) == 80
    for text in ("", "0", "65536", "-1", "८०", "99999999999"):
        with pytest.raises(InvalidArgument, match="port"):
            kubestream.port((("port", text),))
