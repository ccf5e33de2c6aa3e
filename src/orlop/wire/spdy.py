"""SPDY/3.1 as Kubernetes' streaming clients speak it: many streams over one connection. Sans I/O.

From "SPDY Protocol - Draft 3.1" (2013). Bytes that come are given to `receive_data`, which returns events; the
methods that send return bytes.

- A frame is a header of 8 bytes and a payload of up to 16 MiB. Control frames begin with a set bit, the version (3) and
  a type; data frames with a stream's ID. Payloads of data frames become events as they arrive, piece by piece, whatever
  the size of the frame.
- Header blocks are in wire.spdy_headers.
- Streams opened by the client have odd IDs, those opened by the server even ones; IDs only grow.
- Each side ends its half of a stream with the flag FIN, or both at once with RST_STREAM.
- 3.1's flow control is not used: neither clients nor servers of Kubernetes send or obey WINDOW_UPDATE. Whoever is
  slow stops reading from the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec

from orlop.spec.errors import InvalidArgument
from orlop.wire.spdy_headers import Headers, Packer, ProtocolError, Unpacker

VERSION = 3

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS = 1, 2, 3, 4
PING, GOAWAY, HEADERS, WINDOW_UPDATE = 6, 7, 8, 9

FIN, UNIDIRECTIONAL = 1, 2  # flags

# Reasons in RST_STREAM, section 2.6.3
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, UNSUPPORTED_VERSION, CANCEL, INTERNAL_ERROR = range(1, 7)
FLOW_CONTROL_ERROR, STREAM_IN_USE, STREAM_ALREADY_CLOSED, INVALID_CREDENTIALS, FRAME_TOO_LARGE = range(7, 12)

# Reasons in GOAWAY
GOAWAY_OK, GOAWAY_PROTOCOL_ERROR, GOAWAY_INTERNAL_ERROR = range(3)

MAX_DATA = 65536  # bytes of payload in a data frame that is sent
MAX_CONTROL = 65536  # bytes of payload in a control frame that is accepted
MAX_STREAMS = 1000  # that a peer may have open

_FRAME = struct.Struct(">II")
_U32 = struct.Struct(">I")
_PAIR = struct.Struct(">II")
_SYN_STREAM = struct.Struct(">IIBB")
_SETTING = struct.Struct(">II")
_ID = 0x7FFFFFFF


class StreamOpened(msgspec.Struct, frozen=True):
    """SYN_STREAM: the peer opens a stream and waits for a reply or reset."""

    stream: int
    headers: Headers
    fin: bool = False  # the peer will send nothing on it


class StreamReplied(msgspec.Struct, frozen=True):
    """SYN_REPLY: the peer accepts a stream of ours."""

    stream: int
    headers: Headers
    fin: bool = False


class HeadersReceived(msgspec.Struct, frozen=True):
    stream: int
    headers: Headers
    fin: bool = False


class DataReceived(msgspec.Struct, frozen=True):
    """A piece of a stream's data. `fin`: the last one; it may be empty."""

    stream: int
    data: bytes
    fin: bool = False


class StreamReset(msgspec.Struct, frozen=True):
    """RST_STREAM: the stream is gone in both directions."""

    stream: int
    status: int


class SettingsReceived(msgspec.Struct, frozen=True):
    settings: tuple[tuple[int, int], ...]


class PingReceived(msgspec.Struct, frozen=True):
    """To be answered by `pong`, unless it `answers` a ping of ours."""

    id: int
    answers: bool


class GoAwayReceived(msgspec.Struct, frozen=True):
    """The peer will open no more streams and accept none after `last_stream`."""

    last_stream: int
    status: int


class WindowUpdated(msgspec.Struct, frozen=True):
    stream: int
    delta: int


class StreamRefused(msgspec.Struct, frozen=True):
    """A frame that only its stream suffers from was not taken: `answer`, a RST_STREAM, is to be sent."""

    stream: int
    answer: bytes


Event = (
    StreamOpened
    | StreamReplied
    | HeadersReceived
    | DataReceived
    | StreamReset
    | SettingsReceived
    | PingReceived
    | GoAwayReceived
    | WindowUpdated
    | StreamRefused
)


class _Stream:
    __slots__ = ("local_open", "remote_open")

    def __init__(self, local_open: bool, remote_open: bool) -> None:
        self.local_open = local_open
        self.remote_open = remote_open


class Connection:
    """One end of a connection.

    >>> client, server = Connection(client=True), Connection(client=False)
    >>> stream, sent = client.open_stream([("streamtype", "stdin")])
    >>> server.receive_data(sent)
    [StreamOpened(stream=1, headers=(('streamtype', 'stdin'),), fin=False)]
    >>> client.receive_data(server.reply(stream))
    [StreamReplied(stream=1, headers=(), fin=False)]
    >>> server.receive_data(client.send_data(stream, b"hi", fin=True))
    [DataReceived(stream=1, data=b'hi', fin=True)]
    """

    def __init__(self, client: bool) -> None:
        self._pack = Packer().pack
        self._unpack = Unpacker().unpack
        self._buffer = bytearray()
        self._data: tuple[int, int, bool] | None = None  # of the data frame begun: stream, bytes to come, FIN
        self._streams: dict[int, _Stream] = {}
        self._parity = 1 if client else 0  # of the IDs that this side gives
        self._next = 1 if client else 2
        self._next_ping = 1 if client else 2
        self._last_received = 0
        self._going_away = False

    @property
    def streams(self) -> tuple[int, ...]:
        """IDs of the streams that are open in at least one direction."""
        return tuple(self._streams)

    # --- what comes

    def receive_data(self, data: bytes) -> list[Event]:
        """The events in the bytes that came. Raises ProtocolError; after that the connection is of no more use."""
        self._buffer += data
        events: list[Event] = []
        at = 0
        while (taken := self._take(at, events)) >= 0:
            at += taken
        del self._buffer[:at]
        return events

    def _take(self, at: int, events: list[Event]) -> int:
        """Reads one frame, or a piece of one, and appends its events; bytes used, or -1 where more are needed."""
        have = len(self._buffer) - at
        if self._data is not None:
            return self._take_data(at, have, events)
        if have < 8:
            return -1
        word, rest = _FRAME.unpack_from(self._buffer, at)
        flags, length = rest >> 24, int(rest & 0xFFFFFF)
        if not word >> 31:
            if not word:
                raise ProtocolError("spdy data frame: stream 0")
            self._data = (word, length, bool(flags & FIN))
            if not length:
                self._take_data(at, 0, events)
            return 8
        if (word >> 16) & 0x7FFF != VERSION:
            raise ProtocolError(f"spdy control frame: version {(word >> 16) & 0x7FFF}, not {VERSION}")
        if length > MAX_CONTROL:
            raise ProtocolError(f"spdy control frame: {length} bytes, at most {MAX_CONTROL} are accepted")
        if have < 8 + length:
            return -1
        reader = _READERS.get(word & 0xFFFF)  # frames of unknown types are skipped, section 2.2.1
        if reader is not None:
            reader(self, flags, bytes(self._buffer[at + 8 : at + 8 + length]), events)
        return 8 + length

    def _take_data(self, at: int, have: int, events: list[Event]) -> int:
        assert self._data is not None
        number, left, fin = self._data
        if not have and left:
            return -1
        piece = bytes(self._buffer[at : at + min(have, left)])
        left -= len(piece)
        self._data = (number, left, fin) if left else None
        stream = self._streams.get(number)
        if stream is None or not stream.remote_open:
            # After a reset the peer's data may still be under way. Nobody waits for them.
            if not left and stream is None and self._is_unheard_of(number):
                events.append(StreamRefused(number, self.reset(number, INVALID_STREAM)))
            return len(piece)
        ends = fin and not left
        if ends:
            self._close(number, remote=True)
        if piece or ends:
            events.append(DataReceived(number, piece, ends))
        return len(piece)

    def _is_unheard_of(self, number: int) -> bool:
        ours = number % 2 == self._parity
        return number >= self._next if ours else number > self._last_received

    def _syn_stream(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) < _SYN_STREAM.size:
            raise ProtocolError(f"spdy SYN_STREAM: {len(payload)} bytes")
        number = _SYN_STREAM.unpack_from(payload)[0] & _ID
        headers = self._unpack(payload[_SYN_STREAM.size :])  # always: all blocks are one zlib stream
        if number % 2 == self._parity or number <= self._last_received:
            raise ProtocolError(f"spdy SYN_STREAM: stream {number} after {self._last_received}")
        self._last_received = number
        if len(self._streams) >= MAX_STREAMS or self._going_away:
            events.append(StreamRefused(number, self.reset(number, REFUSED_STREAM)))
            return
        fin = bool(flags & FIN)
        if fin and flags & UNIDIRECTIONAL:
            events.append(StreamRefused(number, self.reset(number, PROTOCOL_ERROR)))
            return
        self._streams[number] = _Stream(not flags & UNIDIRECTIONAL, not fin)
        events.append(StreamOpened(number, headers, fin))

    def _syn_reply(self, flags: int, payload: bytes, events: list[Event]) -> None:
        number, headers = self._numbered_headers("SYN_REPLY", payload)
        if number in self._streams:
            fin = self._end(number, flags)
            events.append(StreamReplied(number, headers, fin))

    def _headers(self, flags: int, payload: bytes, events: list[Event]) -> None:
        number, headers = self._numbered_headers("HEADERS", payload)
        stream = self._streams.get(number)
        if stream is not None and stream.remote_open:
            fin = self._end(number, flags)
            events.append(HeadersReceived(number, headers, fin))

    def _numbered_headers(self, name: str, payload: bytes) -> tuple[int, Headers]:
        if len(payload) < 4:
            raise ProtocolError(f"spdy {name}: {len(payload)} bytes")
        number: int = _U32.unpack_from(payload)[0] & _ID
        return number, self._unpack(payload[4:])

    def _end(self, number: int, flags: int) -> bool:
        if flags & FIN:
            self._close(number, remote=True)
        return bool(flags & FIN)

    def _rst_stream(self, flags: int, payload: bytes, events: list[Event]) -> None:
        number, status = _two("RST_STREAM", payload)
        if self._streams.pop(number & _ID, None) is not None:
            events.append(StreamReset(number & _ID, status))

    def _settings(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) < 4 or (len(payload) - 4) != _U32.unpack_from(payload)[0] * _SETTING.size:
            raise ProtocolError(f"spdy SETTINGS: {len(payload)} bytes")
        events.append(
            SettingsReceived(tuple((id & 0xFFFFFF, value) for id, value in _SETTING.iter_unpack(payload[4:])))
        )

    def _ping(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ProtocolError(f"spdy PING: {len(payload)} bytes")
        (id,) = _U32.unpack(payload)
        events.append(PingReceived(id, answers=id % 2 == self._parity))

    def _goaway(self, flags: int, payload: bytes, events: list[Event]) -> None:
        last, status = _two("GOAWAY", payload)
        events.append(GoAwayReceived(last & _ID, status))

    def _window_update(self, flags: int, payload: bytes, events: list[Event]) -> None:
        number, delta = _two("WINDOW_UPDATE", payload)
        events.append(WindowUpdated(number & _ID, delta & _ID))

    # --- what goes

    def open_stream(self, headers: Iterable[tuple[str, str]], fin: bool = False) -> tuple[int, bytes]:
        """A new stream's ID, and its SYN_STREAM. Data should wait for the peer's reply."""
        number = self._next
        self._next += 2
        self._streams[number] = _Stream(not fin, True)
        head = _SYN_STREAM.pack(number, 0, 0, 0)
        return number, _control(SYN_STREAM, head + self._pack(headers), FIN if fin else 0)

    def reply(self, stream: int, headers: Iterable[tuple[str, str]] = (), fin: bool = False) -> bytes:
        """SYN_REPLY: accepts a stream of the peer's."""
        return self._send_headers(SYN_REPLY, stream, headers, fin)

    def send_headers(self, stream: int, headers: Iterable[tuple[str, str]], fin: bool = False) -> bytes:
        return self._send_headers(HEADERS, stream, headers, fin)

    def _send_headers(self, type: int, stream: int, headers: Iterable[tuple[str, str]], fin: bool) -> bytes:
        self._require_open(stream)
        frame = _control(type, _U32.pack(stream) + self._pack(headers), FIN if fin else 0)
        if fin:
            self._close(stream, remote=False)
        return frame

    def send_data(self, stream: int, data: bytes | memoryview = b"", fin: bool = False) -> bytes:
        """Data frames of MAX_DATA bytes at most; `fin` ends this side's half of the stream."""
        self._require_open(stream)
        view = memoryview(data)
        frames: list[bytes | memoryview] = []
        for at in range(0, max(len(view), 1 if fin else 0), MAX_DATA):
            piece = view[at : at + MAX_DATA]
            flags = FIN if fin and at + len(piece) == len(view) else 0
            frames += [_FRAME.pack(stream, flags << 24 | len(piece)), piece]
        if fin:
            self._close(stream, remote=False)
        return b"".join(frames)

    def reset(self, stream: int, status: int = CANCEL) -> bytes:
        """RST_STREAM: forgets the stream. Its frames that still come are dropped."""
        self._streams.pop(stream, None)
        return _control(RST_STREAM, _PAIR.pack(stream, status))

    def ping(self) -> tuple[int, bytes]:
        """A PING, and the ID that its answer will have."""
        id = self._next_ping
        self._next_ping = (self._next_ping + 2) & 0xFFFFFFFF or 2
        return id, self.pong(id)

    def pong(self, id: int) -> bytes:
        return _control(PING, _U32.pack(id))

    def goaway(self, status: int = GOAWAY_OK) -> bytes:
        """GOAWAY: streams that the peer opens from now on are refused."""
        self._going_away = True
        return _control(GOAWAY, _PAIR.pack(self._last_received, status))

    def settings(self, settings: Iterable[tuple[int, int]]) -> bytes:
        pairs = [_SETTING.pack(id & 0xFFFFFF, value) for id, value in settings]
        return _control(SETTINGS, _U32.pack(len(pairs)) + b"".join(pairs))

    def window_update(self, stream: int, delta: int) -> bytes:
        return _control(WINDOW_UPDATE, _PAIR.pack(stream, delta))

    def is_open(self, stream: int) -> bool:
        """In at least one direction."""
        return stream in self._streams

    def can_send(self, stream: int) -> bool:
        found = self._streams.get(stream)
        return found is not None and found.local_open

    def _require_open(self, stream: int) -> None:
        if not self.can_send(stream):
            raise InvalidArgument(f"spdy stream {stream} is closed")

    def _close(self, number: int, remote: bool) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        if remote:
            stream.remote_open = False
        else:
            stream.local_open = False
        if not stream.local_open and not stream.remote_open:
            del self._streams[number]


_READERS = {
    SYN_STREAM: Connection._syn_stream,
    SYN_REPLY: Connection._syn_reply,
    RST_STREAM: Connection._rst_stream,
    SETTINGS: Connection._settings,
    PING: Connection._ping,
    GOAWAY: Connection._goaway,
    HEADERS: Connection._headers,
    WINDOW_UPDATE: Connection._window_update,
}


def _control(type: int, payload: bytes, flags: int = 0) -> bytes:
    return _FRAME.pack(0x80000000 | VERSION << 16 | type, flags << 24 | len(payload)) + payload


def _two(name: str, payload: bytes) -> tuple[int, int]:
    if len(payload) != _PAIR.size:
        raise ProtocolError(f"spdy {name}: {len(payload)} bytes")
    first, second = _PAIR.unpack(payload)
    return first, second
