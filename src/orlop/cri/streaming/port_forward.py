"""port-forward: connections to ports of a pod, each with a stream for what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from orlop.cri.streaming.backend import Backend, Duplex, PortForward
from orlop.cri.streaming.conversation import converse, failure, tell
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.link import Link, SocketLink
from orlop.cri.streaming.spdy_session import SpdySession, SpdyStream
from orlop.cri.streaming.websocket import TunnelLink, WebSocket
from orlop.cri.streaming.websocket_session import WebSocketSession
from orlop.spec.errors import InvalidArgument
from orlop.wire import kubestream
from orlop.wire.spdy import CANCEL


async def over_spdy(link: SocketLink, backend: Backend, request: PortForward, limits: Limits) -> None:
    await _over_spdy(link, link, backend, request, limits)


async def over_tunnel(link: SocketLink, backend: Backend, request: PortForward, limits: Limits) -> None:
    """SPDY inside a WebSocket's binary messages."""
    await _over_spdy(TunnelLink(WebSocket(link)), link, backend, request, limits)


async def _over_spdy(link: Link, socket: SocketLink, backend: Backend, request: PortForward, limits: Limits) -> None:
    pairs = _Pairs(backend, request.sandbox, limits)
    session = SpdySession(link, pairs.opened, limits.buffer)
    await converse(session, pairs.run(), socket, limits)


async def over_websocket(
    link: SocketLink, backend: Backend, request: PortForward, protocol: kubestream.Protocol, limits: Limits
) -> None:
    """Two channels for every port of the request: data, then errors. Each begins with its port, little endian."""
    session = WebSocketSession(WebSocket(link), protocol, 2 * len(request.ports), limits.buffer)

    async def work() -> None:
        for number, port in enumerate(request.ports):
            for channel in session.channels[2 * number : 2 * number + 2]:
                await channel.write(port.to_bytes(2, "little"))
        async with asyncio.TaskGroup() as group:
            for number, port in enumerate(request.ports):
                data, error = session.channels[2 * number : 2 * number + 2]
                error.inbound.discard()
                group.create_task(_connect(backend, request.sandbox, port, data, error))

    await converse(session, work(), link, limits)


def port_error(protocol: kubestream.Protocol, ports: tuple[int, ...]) -> str | None:
    """Why channels can't serve a request's ports."""
    most = 5 if protocol.base64 else 127  # a channel is a digit, or a byte below CLOSE
    if not ports:
        return "the request for port-forward names no ports: name them, or use SPDY/3.1+portforward.k8s.io"
    if len(ports) > most:
        return f"{len(ports)} ports: {protocol.name} has channels for {most}"
    return None


class _Pairs:
    """Streams that belong together: their headers have the same requestid."""

    def __init__(self, backend: Backend, sandbox: str, limits: Limits) -> None:
        self._backend = backend
        self._sandbox = sandbox
        self._limits = limits
        self._waiting: dict[str, SpdyStream] = {}  # for its other half, by requestid
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is cancelled: the client decides when it wants no more connections."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def opened(self, stream: SpdyStream) -> bool:
        kind = kubestream.stream_type(stream.headers)
        try:
            port = kubestream.port(stream.headers)
        except InvalidArgument:
            return False
        if kind not in ("error", "data"):
            return False
        id = kubestream.header(stream.headers, "requestid") or self._derived(kind, stream.number)
        other = self._waiting.get(id)
        if other is None:
            self._waiting[id] = stream
            self._start(self._expire(id, stream))
            return True
        if kubestream.stream_type(other.headers) == kind or kubestream.port(other.headers) != port:
            return False
        del self._waiting[id]
        data, error = (stream, other) if kind == "data" else (other, stream)
        error.inbound.discard()
        self._start(_connect(self._backend, self._sandbox, port, data, error))
        return True

    @staticmethod
    def _derived(kind: str, number: int) -> str:
        """Clients before requestid opened the error stream, and the data stream next."""
        return str(number if kind == "error" else number - 2)

    async def _expire(self, id: str, stream: SpdyStream) -> None:
        await asyncio.sleep(self._limits.creation)
        if self._waiting.get(id) is stream:
            del self._waiting[id]
            await stream.reset(CANCEL)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _connect(backend: Backend, sandbox: str, port: int, data: Duplex, error: Duplex) -> None:
    doing = f"forwarding port {port} to pod {sandbox}"
    message = await failure(backend.port_forward(sandbox, port, data), doing)
    await tell(error, f"error {doing}: {message}".encode() if message else b"")
    await tell(data, b"")
