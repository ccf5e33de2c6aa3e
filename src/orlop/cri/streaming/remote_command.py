"""exec and attach: the streams of a process, and the one that says how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from orlop.cri.streaming.backend import Attach, Backend, Duplex, Exec, Stdio
from orlop.cri.streaming.conversation import converse, failure, tell
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.link import Link, SocketLink
from orlop.cri.streaming.pipe import Pipe, Sizes
from orlop.cri.streaming.spdy_session import SpdySession, SpdyStream
from orlop.cri.streaming.websocket import WebSocket
from orlop.cri.streaming.websocket_session import WebSocketSession
from orlop.spec.errors import InvalidArgument
from orlop.wire import kubestream
from orlop.wire.kubestream import STREAM_TYPES, SizeDecoder, encode_exit, encode_failure

_log = logging.getLogger(__name__)

Command = Exec | Attach


class Stream(Duplex, Protocol):
    @property
    def inbound(self) -> Pipe: ...


def wanted(request: Command, protocol: kubestream.Protocol) -> tuple[str, ...]:
    """The streams that a request and a version have."""
    return tuple(
        name
        for name, has in (
            ("error", True),
            ("stdin", request.stdin),
            ("stdout", request.stdout),
            ("stderr", request.stderr),
            ("resize", request.tty and protocol.version >= 3),
        )
        if has
    )


async def over_spdy(
    link: SocketLink, backend: Backend, request: Command, protocol: kubestream.Protocol, limits: Limits
) -> None:
    streams = _SpdyStreams(link, wanted(request, protocol), limits.buffer)
    await converse(streams.session, _work(streams, backend, request, protocol, limits), link, limits)


async def over_websocket(
    link: SocketLink, backend: Backend, request: Command, protocol: kubestream.Protocol, limits: Limits
) -> None:
    session = WebSocketSession(WebSocket(link), protocol, len(STREAM_TYPES), limits.buffer)
    streams = _WebSocketStreams(session, request)
    await converse(session, _work(streams, backend, request, protocol, limits), link, limits)


class _Streams(Protocol):
    """Where the streams come from."""

    async def gather(self) -> Mapping[str, Stream]:
        """Waits until all are there."""

    @property
    def there(self) -> Mapping[str, Stream]: ...


class _SpdyStreams:
    """The client opens them, one after the other, in an order of its own."""

    def __init__(self, link: Link, wanted: tuple[str, ...], limit: int) -> None:
        self.session = SpdySession(link, self._opened, limit)
        self.there: dict[str, Stream] = {}
        self._wanted = wanted
        self._complete = asyncio.Event()

    def _opened(self, stream: SpdyStream) -> bool:
        name = kubestream.stream_type(stream.headers)
        if name not in self._wanted or name in self.there:
            return False
        if name not in ("stdin", "resize"):
            stream.inbound.discard()
        self.there[name] = stream
        if len(self.there) == len(self._wanted):
            self._complete.set()
        return True

    async def gather(self) -> Mapping[str, Stream]:
        await self._complete.wait()
        return self.there


class _WebSocketStreams:
    """They are there; the client waits for a first, empty message."""

    def __init__(self, session: WebSocketSession, request: Command) -> None:
        names = {"error": True, "stdin": request.stdin, "stdout": request.stdout, "stderr": request.stderr}
        names["resize"] = request.tty
        self._session = session
        self.there: dict[str, Stream] = {name: session.channels[STREAM_TYPES[name]] for name in names if names[name]}
        for name, number in STREAM_TYPES.items():
            if name not in ("stdin", "resize") or name not in self.there:
                session.channels[number].inbound.discard()

    async def gather(self) -> Mapping[str, Stream]:
        first = next(STREAM_TYPES[name] for name in ("stdout", "stderr", "error") if name in self.there)
        await self._session.send(first, b"")
        return self.there


async def _work(
    streams: _Streams, backend: Backend, request: Command, protocol: kubestream.Protocol, limits: Limits
) -> None:
    try:
        async with asyncio.timeout(limits.creation):
            found = await streams.gather()
    except TimeoutError:
        missing = set(wanted(request, protocol)) - set(streams.there)
        if "error" in streams.there:
            why = f"the client has not opened its streams in {limits.creation:g} s: {', '.join(sorted(missing))}"
            await tell(streams.there["error"], encode_failure(why, protocol))
        return
    sizes = Sizes() if "resize" in found else None
    resizing = asyncio.ensure_future(_resize(found["resize"], sizes)) if sizes is not None else None
    try:
        stdio = Stdio(found.get("stdin"), found.get("stdout"), found.get("stderr"), sizes)
        text = await _call(backend, request, stdio, protocol)
    finally:
        if resizing is not None:
            resizing.cancel()
    for name in ("stdout", "stderr"):
        if name in found:
            await tell(found[name], b"")
    await tell(found["error"], text)


async def _call(backend: Backend, request: Command, stdio: Stdio, protocol: kubestream.Protocol) -> bytes:
    status: int | None = None

    async def call() -> None:
        nonlocal status
        if isinstance(request, Exec):
            status = await backend.exec(request, stdio)
        else:
            await backend.attach(request, stdio)
            status = 0

    doing = f"{'exec in' if isinstance(request, Exec) else 'attach to'} container {request.container}"
    error = await failure(call(), doing)
    if status is None:
        return encode_failure(error or "the client has closed a stream that was needed", protocol)
    return encode_exit(status, protocol)


async def _resize(stream: Stream, sizes: Sizes) -> None:
    decoder = SizeDecoder()
    try:
        while data := await stream.read():
            for size in decoder.feed(data):
                sizes.put(size)
    except InvalidArgument as error:
        _log.warning("%s; the client's later sizes are ignored", error)
        stream.inbound.discard()
    finally:
        sizes.end()
