from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.errors import InvalidArgument
from orlop.wire import spdy
from orlop.wire.spdy import (
    Connection,
    DataReceived,
    Event,
    GoAwayReceived,
    HeadersReceived,
    PingReceived,
    ProtocolError,
    SettingsReceived,
    StreamOpened,
    StreamRefused,
    StreamReplied,
    StreamReset,
    WindowUpdated,
)
from orlop.wire.spdy_headers import DICTIONARY, Headers

names = st.text(st.characters(codec="ascii", categories=("Ll", "Nd")), min_size=1, max_size=12)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
headers = st.dictionaries(names, values, max_size=8).map(lambda found: tuple(found.items()))


def pair() -> tuple[Connection, Connection]:
    return Connection(client=True), Connection(client=False)


def cut(connection: Connection, data: bytes, size: int) -> list[Event]:
    return [event for at in range(0, len(data), size) for event in connection.receive_data(data[at : at + size])]


def control(type: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, type, flags << 24 | len(payload)) + payload


def block(*pairs: tuple[bytes, bytes], count: int | None = None) -> bytes:
    plain = struct.pack(">I", len(pairs) if count is None else count)
    for name, value in pairs:
        plain += struct.pack(">I", len(name)) + name + struct.pack(">I", len(value)) + value
    packer = zlib.compressobj(zdict=DICTIONARY)
    return packer.compress(plain) + packer.flush(zlib.Z_SYNC_FLUSH)


def test_the_dictionary_is_the_one_that_peers_have() -> None:
    """zlib streams name their dictionary by its checksum; SPDY/3's is this."""
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


@given(st.lists(st.tuples(headers, st.binary(max_size=200), st.booleans()), max_size=6), st.integers(1, 40))
def test_streams_survive_any_cutting(sent: list[tuple[Headers, bytes, bool]], size: int) -> None:
    client, server = pair()
    data, expected = b"", []
    for number, (pairs, payload, fin) in enumerate(sent):
        stream, frame = client.open_stream(pairs)
        assert stream == 2 * number + 1
        data += frame + client.send_data(stream, payload, fin)
        expected.append((stream, pairs, payload, fin))
    got: dict[int, list[object]] = {}
    for event in cut(server, data, size):
        if isinstance(event, StreamOpened):
            got[event.stream] = [event.stream, event.headers, b"", False]
        else:
            assert isinstance(event, DataReceived)
            got[event.stream][2] += event.data  # type: ignore[operator]
            got[event.stream][3] = event.fin
    assert [tuple(values) for values in got.values()] == expected


@given(st.binary(max_size=300), st.booleans())
def test_hostile_bytes_are_events_or_refused(data: bytes, client: bool) -> None:
    try:
        Connection(client).receive_data(data)
    except ProtocolError:
        pass


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.binary(max_size=60), st.booleans()), max_size=8),
    st.integers(1, 50),
)
def test_hostile_control_frames_are_events_or_refused(frames: list[tuple[int, int, bytes, bool]], size: int) -> None:
    data = b""
    for type, flags, payload, packed in frames:
        packer = zlib.compressobj(zdict=DICTIONARY)
        data += control(
            type, payload[:10] + packer.compress(payload[10:]) + packer.flush() if packed else payload, flags
        )
    try:
        cut(Connection(client=False), data, size)
    except ProtocolError:
        pass


def test_a_large_data_frame_comes_in_pieces_and_is_not_kept() -> None:
    client, server = pair()
    stream, opened = client.open_stream(())
    server.receive_data(opened)
    server.receive_data(struct.pack(">II", stream, 1 << 24 | 0xFFFFFF))
    piece = bytes(1 << 16)
    for _ in range(255):
        (event,) = server.receive_data(piece)
        assert event == DataReceived(stream, piece, False)
        assert not server._buffer
    (event,) = server.receive_data(piece[1:])
    assert isinstance(event, DataReceived)
    assert event.fin


def test_much_data_is_cut_into_frames_and_only_the_last_ends_the_stream() -> None:
    client, server = pair()
    stream, opened = client.open_stream(())
    events = server.receive_data(opened + client.send_data(stream, b"x" * 150_000, fin=True))[1:]
    assert [(len(e.data), e.fin) for e in events if isinstance(e, DataReceived)] == [
        (65536, False),
        (65536, False),
        (18928, True),
    ]


def test_both_halves_end_on_their_own() -> None:
    client, server = pair()
    stream, opened = client.open_stream([("streamtype", "stdin")])
    server.receive_data(opened)
    assert client.receive_data(server.reply(stream)) == [StreamReplied(stream, (), False)]
    assert server.receive_data(client.send_data(stream, fin=True)) == [DataReceived(stream, b"", True)]
    with pytest.raises(InvalidArgument, match="stream 1 is closed"):
        client.send_data(stream, b"more")
    assert client.receive_data(server.send_data(stream, b"answer")) == [DataReceived(stream, b"answer", False)]
    assert client.receive_data(server.send_data(stream, fin=True)) == [DataReceived(stream, b"", True)]
    assert client.streams == server.streams == ()


def test_a_name_with_several_values_comes_once_for_each() -> None:
    client, server = pair()
    stream, opened = client.open_stream([("a", "1"), ("b", "2"), ("A", "3")])
    assert server.receive_data(opened) == [StreamOpened(stream, (("a", "1"), ("a", "3"), ("b", "2")), False)]


def test_a_stream_may_be_opened_in_one_direction_only() -> None:
    client, server = pair()
    stream, opened = client.open_stream((), fin=True)
    assert server.receive_data(opened) == [StreamOpened(stream, (), True)]
    with pytest.raises(InvalidArgument):
        client.send_data(stream, b"x")
    assert client.receive_data(server.reply(stream, fin=True)) == [StreamReplied(stream, (), True)]
    assert client.streams == server.streams == ()


def test_every_other_frame_arrives() -> None:
    client, server = pair()
    stream, opened = client.open_stream(())
    server.receive_data(opened)
    id, ping = client.ping()
    sent = (
        client.send_headers(stream, [("more", "headers")])
        + ping
        + client.settings([(4, 100)])
        + client.window_update(stream, 5)
        + client.reset(stream)
        + client.goaway()
    )
    assert server.receive_data(sent) == [
        HeadersReceived(stream, (("more", "headers"),), False),
        PingReceived(id, answers=False),
        SettingsReceived(((4, 100),)),
        WindowUpdated(stream, 5),
        StreamReset(stream, spdy.CANCEL),
        GoAwayReceived(0, spdy.GOAWAY_OK),
    ]
    assert client.receive_data(server.pong(id)) == [PingReceived(id, answers=True)]


def test_data_after_a_reset_is_dropped_without_a_word() -> None:
    client, server = pair()
    stream, opened = client.open_stream(())
    server.receive_data(opened)
    server.reset(stream)
    assert server.receive_data(client.send_data(stream, b"late")) == []


def test_data_for_a_stream_that_never_was_is_refused() -> None:
    client, server = pair()
    (event,) = server.receive_data(struct.pack(">II", 7, 2) + b"hi")
    assert isinstance(event, StreamRefused)
    client.open_stream(())
    assert client.receive_data(event.answer) == []  # not a stream that the client knows either


def test_a_stream_opened_after_goaway_is_refused() -> None:
    client, server = pair()
    client.receive_data(server.goaway())
    stream, opened = client.open_stream(())
    (event,) = server.receive_data(opened)
    assert isinstance(event, StreamRefused)
    assert client.receive_data(event.answer) == [StreamReset(stream, spdy.REFUSED_STREAM)]


def test_streams_beyond_the_limit_are_refused() -> None:
    client, server = pair()
    for _ in range(spdy.MAX_STREAMS):
        assert isinstance(server.receive_data(client.open_stream(())[1])[0], StreamOpened)
    assert isinstance(server.receive_data(client.open_stream(())[1])[0], StreamRefused)


def test_frames_of_unknown_types_are_skipped() -> None:
    assert Connection(client=False).receive_data(control(77, b"whatever")) == []


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (control(spdy.PING, bytes(4), version=2), "version 2, not 3"),
        (struct.pack(">HHI", 0x8003, spdy.HEADERS, 1 << 20), "1048576 bytes, at most 65536"),
        (struct.pack(">II", 0, 5), "stream 0"),
        (control(spdy.PING, b"123"), "PING: 3 bytes"),
        (control(spdy.RST_STREAM, b"123"), "RST_STREAM: 3 bytes"),
        (control(spdy.GOAWAY, bytes(4)), "GOAWAY: 4 bytes"),
        (control(spdy.SETTINGS, b"\0\0\0\2" + bytes(8)), "SETTINGS: 12 bytes"),
        (control(spdy.SYN_STREAM, bytes(4)), "SYN_STREAM: 4 bytes"),
        (control(spdy.SYN_STREAM, b"\0\0\0\1" + bytes(6) + b"not zlib"), "header block"),
        (control(spdy.SYN_STREAM, b"\0\0\0\2" + bytes(6) + block()), "stream 2 after 0"),
        (control(spdy.SYN_STREAM, b"\0\0\0\1" + bytes(6) + block((b"a", b"b"), count=2)), "cut short"),
        (control(spdy.SYN_STREAM, b"\0\0\0\1" + bytes(6) + block((b"a", b"b"), count=0)), "after the last header"),
        (control(spdy.SYN_STREAM, b"\0\0\0\1" + bytes(6) + block(count=0x7FFFFFFF)), "at most 256"),
        (control(spdy.SYN_STREAM, b"\0\0\0\1" + bytes(6) + block((b"a", b"\xff"))), "not UTF-8"),
        (control(spdy.SYN_STREAM, b"\0\0\0\1" + bytes(6) + block((b"a", bytes(10_000_000)))), "header block"),
    ],
)
def test_what_breaks_the_protocol_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(ProtocolError, match=match):
        Connection(client=False).receive_data(data)


def test_an_id_is_used_once() -> None:
    client, server = pair()
    server.receive_data(client.open_stream(())[1])
    client._next = 1
    with pytest.raises(ProtocolError, match="stream 1 after 1"):
        server.receive_data(client.open_stream(())[1])
