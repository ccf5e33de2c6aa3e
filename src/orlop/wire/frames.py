"""Frames between the shim and its clients, over a unix stream socket. Sans I/O.

A frame is `u8 type, u8 stream, u16 zero, u32 length`, little endian, then `length` bytes of payload (at most 64 KiB).
Every ATTACH, RESIZE, SIGNAL, OWN, DONE, TERMINAL and REOPEN is answered by OK or ERROR, in order; EXEC by PID or ERROR;
STATUS by STATE. EXEC and TERMINAL bring descriptors along. STDIN and STDIN_EOF have no answer. After ATTACH, OUTPUT
frames come between answers; EXIT is the last frame to come, once all output has been sent.
"""

from __future__ import annotations

import struct

import msgspec

from orlop.spec.errors import Internal

# client -> shim
ATTACH, STDIN, STDIN_EOF, RESIZE, SIGNAL, WAIT, OWN, DONE, EXEC, STATUS, TERMINAL, REOPEN = range(1, 13)
# shim -> client
OUTPUT, EXIT, ERROR, PID, OK, STATE = range(65, 71)

NAMES = {
    number: name
    for name, number in list(globals().items())
    if name.isupper() and isinstance(number, int) and not name.startswith("_")
}

STDOUT, STDERR = 1, 2
WITH_STDIO = 1  # `stream` of an EXEC frame: descriptors 3 to 5 are the process's standard streams

HEADER = 8
MAX_PAYLOAD = 65536

_HEADER = struct.Struct("<BBHI")
_ATTACH = struct.Struct("<BB")
_RESIZE = struct.Struct("<HH")
_I32 = struct.Struct("<i")
_EXIT = struct.Struct("<iiq")
_STATE = struct.Struct("<iIQQBBB5x")


class Frame(msgspec.Struct, frozen=True):
    type: int
    stream: int = 0
    payload: bytes = b""

    def __str__(self) -> str:
        return f"{NAMES.get(self.type, self.type)} stream={self.stream} length={len(self.payload)}"


class Exit(msgspec.Struct, frozen=True):
    """How a container's first process ended."""

    status: int  # as a shell reports it: the exit code, or 128 + the signal
    signal: int = 0  # 0: it exited by itself
    time_ns: int = 0  # since the epoch
    oom: bool = (
        False  # the kernel killed a process of the container for want of memory (known from the exit file alone)
    )


class State(msgspec.Struct, frozen=True):
    """What a running shim says of itself."""

    pid: int  # of the container's first process; 0: not started yet
    clients: int  # that receive output
    start_time: int  # of the process, in clock ticks since boot (/proc/PID/stat, field 22)
    lost_lines: int  # of the log, not yet noted in it
    ended: bool
    terminal: bool
    stdin_open: bool


def encode(type: int, payload: bytes | memoryview = b"", stream: int = 0) -> bytes:
    """One frame. The caller keeps payloads within MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        raise Internal(f"frame of {len(payload)} bytes: at most {MAX_PAYLOAD} are possible")
    return _HEADER.pack(type, stream, 0, len(payload)) + payload


def encode_stdin(data: bytes) -> bytes:
    """As many STDIN frames as the data need."""
    view = memoryview(data)
    return b"".join(encode(STDIN, view[i : i + MAX_PAYLOAD]) for i in range(0, len(view), MAX_PAYLOAD))


def encode_attach(stdin: bool, output: bool) -> bytes:
    return encode(ATTACH, _ATTACH.pack(stdin, output))


def encode_resize(rows: int, columns: int) -> bytes:
    return encode(RESIZE, _RESIZE.pack(min(rows, 0xFFFF), min(columns, 0xFFFF)))


def encode_signal(number: int) -> bytes:
    return encode(SIGNAL, _I32.pack(number))


def decode_exit(frame: Frame) -> Exit:
    status, signal, time_ns = _unpack(_EXIT, frame)
    return Exit(status, signal, time_ns)


def decode_pid(frame: Frame) -> int:
    return int(_unpack(_I32, frame)[0])


def decode_state(frame: Frame) -> State:
    pid, clients, start_time, lost, ended, terminal, stdin_open = _unpack(_STATE, frame)
    return State(pid, clients, start_time, lost, bool(ended), bool(terminal), bool(stdin_open))


def _unpack(layout: struct.Struct, frame: Frame) -> tuple[int, ...]:
    if len(frame.payload) != layout.size:
        raise Internal(f"malformed frame from the shim: {frame}")
    return layout.unpack(frame.payload)


class Decoder:
    """Cuts received bytes into frames, however they arrive.

    >>> decoder = Decoder()
    >>> decoder.feed(encode(OK)[:3])
    []
    >>> decoder.feed(encode(OK)[3:] + encode(OUTPUT, b"hi", STDOUT))
    [Frame(type=69, stream=0, payload=b''), Frame(type=65, stream=1, payload=b'hi')]
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now. Raises Internal for a length beyond MAX_PAYLOAD."""
        buffer = self._rest + data if self._rest else data
        frames, at = [], 0
        while len(buffer) - at >= HEADER:
            type, stream, _, length = _HEADER.unpack_from(buffer, at)
            if length > MAX_PAYLOAD:
                raise Internal(f"malformed frame from the shim: type {type}, length {length}")
            if len(buffer) - at < HEADER + length:
                break
            frames.append(Frame(type, stream, buffer[at + HEADER : at + HEADER + length]))
            at += HEADER + length
        self._rest = buffer[at:]
        return frames

    @property
    def partial(self) -> bool:
        """Whether the stream stopped in the middle of a frame."""
        return bool(self._rest)
