"""Kubernetes' protocols for exec, attach and port-forward: names, channels, status, sizes. Sans I/O.

Over SPDY every stream of the process is a stream of the connection, told apart by headers. Over WebSocket every message
begins with a byte, the channel; the base64 variants have a digit and base64 text instead. Versions differ in the end:

| version | the end | error stream | terminal size |
|---|---|---|---|
| v1 | | text, empty where all went well | |
| v2 | standard input may end early (SPDY) | as before | |
| v3 | | as before | a stream of its own |
| v4 | | JSON: a Status of Kubernetes, with the exit code | |
| v5 | a message CLOSE and channel ends a channel (WebSocket) | as before | |

Port-forward has its own: over SPDY a pair of streams (error, data) for every connection to the pod, over WebSocket a
pair of channels for every port, or SPDY itself in binary messages.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable

import msgspec

from orlop.spec.document import known
from orlop.spec.errors import InvalidArgument

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE = 255
STREAM_TYPES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}

PORT_FORWARD = "portforward.k8s.io"
TUNNEL = "SPDY/3.1+portforward.k8s.io"

MAX_SIZE_TEXT = 4096  # bytes of an unfinished JSON text on the resize stream
_MAX_CELLS = 65535  # rows or columns: TIOCSWINSZ has 16 bits


class Protocol(msgspec.Struct, frozen=True):
    """What was agreed with a client."""

    name: str  # as it is given back to the client
    version: int
    base64: bool = False


# Over SPDY, in X-Stream-Protocol-Version. A client that names none speaks v1.
REMOTE_COMMAND = {name: Protocol(name, int(name[1])) for name in (f"v{n}.channel.k8s.io" for n in (4, 3, 2))} | {
    "channel.k8s.io": Protocol("channel.k8s.io", 1)
}
# Over WebSocket, in Sec-WebSocket-Protocol.
REMOTE_COMMAND_WEBSOCKET = {
    protocol.name: protocol
    for protocol in (
        Protocol("v5.channel.k8s.io", 5),
        Protocol("v4.channel.k8s.io", 4),
        Protocol("v4.base64.channel.k8s.io", 4, base64=True),
        Protocol("channel.k8s.io", 1),
        Protocol("base64.channel.k8s.io", 1, base64=True),
    )
}
PORT_FORWARD_WEBSOCKET = {
    name: REMOTE_COMMAND_WEBSOCKET[name] for name in ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")
}


def choose(offered: Iterable[str], known: dict[str, Protocol]) -> Protocol | None:
    """The first that the client offers and we know."""
    return next((known[name] for name in offered if name in known), None)


# --- messages of channels


def encode_message(channel: int, data: bytes | memoryview, protocol: Protocol) -> bytes:
    """A WebSocket message: binary, or text (ASCII) for the base64 variants."""
    if protocol.base64:
        return b"%d" % channel + base64.b64encode(data)
    return b"".join((bytes((channel,)), data))


def decode_message(message: bytes, protocol: Protocol) -> tuple[int, bytes]:
    """A message's channel and data. Raises InvalidArgument."""
    if not message:
        raise InvalidArgument("message of a channel: empty")
    if not protocol.base64:
        return message[0], message[1:]
    channel = message[0] - ord("0")
    if not 0 <= channel <= 9:
        raise InvalidArgument(f"message of a channel: {message[:1]!r} is no digit")
    try:
        return channel, base64.b64decode(message[1:], validate=True)
    except binascii.Error as error:
        raise InvalidArgument("message of a channel: not base64") from error


# --- how it ended


def encode_exit(status: int, protocol: Protocol) -> bytes:
    """What the error stream says of an exit status; before v4, nothing of success."""
    if protocol.version < 4:
        return f"command terminated with exit code {status}".encode() if status else b""
    if not status:
        return b'{"metadata":{},"status":"Success"}'
    return _status(
        f"command terminated with non-zero exit code: {status}",
        "NonZeroExitCode",
        [{"reason": "ExitCode", "message": str(status)}],
    )


def encode_failure(message: str, protocol: Protocol) -> bytes:
    """What the error stream says where the command could not be run, or the container not be attached to."""
    if protocol.version < 4:
        return message.encode()
    return _status(message, "InternalError", [{"message": message}], 500)


def _status(message: str, reason: str, causes: list[dict[str, str]], code: int | None = None) -> bytes:
    status: dict[str, object] = {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": {"causes": causes},
    }
    if code is not None:
        status["code"] = code
    return json.dumps(status, separators=(",", ":"), ensure_ascii=False).encode()


class Status(msgspec.Struct, frozen=True):
    """What a client reads from the error stream: `exit_code` where the command ran, else `message` says why not."""

    exit_code: int | None
    message: str = ""


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] = []


class _Status(msgspec.Struct):
    status: str
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_status_decoder = msgspec.json.Decoder(known(_Status))


def decode_status(text: bytes) -> Status:
    """The opposite of `encode_exit` and `encode_failure`, for v4 and v5. Raises InvalidArgument."""
    try:
        found = _status_decoder.decode(text)
        if found.status == "Success":
            return Status(0)
        if found.reason == "NonZeroExitCode" and found.details is not None:
            return Status(next(int(c.message) for c in found.details.causes if c.reason == "ExitCode"), found.message)
    except (ValueError, StopIteration) as error:  # msgspec's errors are ValueErrors
        raise InvalidArgument(f"error stream: no status: {text[:100]!r}") from error
    return Status(None, found.message)


# --- the terminal's size


class Size(msgspec.Struct, frozen=True):
    columns: int
    rows: int


class SizeDecoder:
    """Reads terminal sizes, JSON texts one after the other, however they are cut.

    >>> SizeDecoder().feed(b'{"Width":80,"Height":24}')
    [Size(columns=80, rows=24)]
    """

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, data: bytes) -> list[Size]:
        """The sizes that are whole now. Raises InvalidArgument."""
        self._rest = (self._rest + data.decode("ascii", "replace")).lstrip()
        sizes = []
        while self._rest:
            try:
                value, end = _json.raw_decode(self._rest)
            except (ValueError, RecursionError) as error:
                # Either more has to come, which objects show by their missing end, or this will never be JSON.
                if not self._rest.startswith("{") or "}" in self._rest or len(self._rest) > MAX_SIZE_TEXT:
                    raise InvalidArgument(f"terminal size: not JSON: {self._rest[:40]!r}") from error
                break
            sizes.append(_size(value))
            self._rest = self._rest[end:].lstrip()
        return sizes


_json = json.JSONDecoder()


def _size(value: object) -> Size:
    if isinstance(value, dict):
        width, height = value.get("Width", 0), value.get("Height", 0)
        if all(type(number) is int and 0 <= number <= _MAX_CELLS for number in (width, height)):
            return Size(width, height)
    raise InvalidArgument(f"terminal size: no Width and Height in 16 bits: {str(value)[:40]}")


def encode_size(size: Size) -> bytes:
    return b'{"Width":%d,"Height":%d}\n' % (size.columns, size.rows)


# --- headers of streams


def stream_type(headers: Iterable[tuple[str, str]]) -> str:
    """`stdin`, `error`, `data`, ...; empty where the client names none."""
    return header(headers, "streamtype")


def header(headers: Iterable[tuple[str, str]], name: str) -> str:
    return next((value for known, value in headers if known == name), "")


def port(headers: Iterable[tuple[str, str]]) -> int:
    """The port that a stream of port-forward is for. Raises InvalidArgument."""
    text = header(headers, "port")
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
        raise InvalidArgument(f"port-forward stream: header port {text[:20]!r}: 1 to 65535 are ports")
    return int(text)
