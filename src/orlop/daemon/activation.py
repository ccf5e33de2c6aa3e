"""Sockets that a service manager listens on for the daemon (sd_listen_fds(3)).

The runtime's front ends use a socket of the kind SOCK_SEQPACKET, the Container Runtime Interface one of SOCK_STREAM:
the kind tells which is which. The first goes on to the warm runtime. gRPC's Python takes no descriptor to listen on, so
the second is accepted from here, and what comes is passed on to a socket of the daemon's own beneath its state.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping

import msgspec

from orlop.spec.errors import InvalidArgument

_FIRST = 3
_BACKLOG = 128


class Passed(msgspec.Struct):
    """What was handed over; None for what was not."""

    cri: socket.socket | None = None
    runtime: socket.socket | None = None


def take(environment: MutableMapping[str, str] = os.environ) -> Passed:
    """Take the sockets over, so that no child finds them. Raises InvalidArgument for any that fits nothing."""
    count = environment.pop("LISTEN_FDS", "")
    pid, names = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDNAMES", "").split(":")
    if not count or pid != str(os.getpid()):
        return Passed()
    if not count.isdecimal() or int(count) > 16:
        raise InvalidArgument(f"LISTEN_FDS: {count[:32]!r} is no number of sockets")
    passed = Passed()
    for index in range(int(count)):
        name = names[index] if index < len(names) else ""
        _sort(passed, _FIRST + index, f"LISTEN_FDS: descriptor {_FIRST + index}" + (f" ({name[:64]})" if name else ""))
    return passed


def _sort(passed: Passed, fd: int, what: str) -> None:
    try:
        found = socket.socket(fileno=fd)
    except OSError as error:
        raise InvalidArgument(f"{what}: no socket: {os.strerror(error.errno or 0).lower()}") from None
    found.set_inheritable(False)
    kinds = {socket.SOCK_STREAM: "cri", socket.SOCK_SEQPACKET: "runtime"}
    kind = kinds.get(found.type) if found.family == socket.AF_UNIX else None
    if kind is None or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise InvalidArgument(
            f"{what}: want a unix socket that listens, ListenStream= for CRI or ListenSequentialPacket= for the runtime"
        )
    if getattr(passed, kind) is not None:
        raise InvalidArgument(f"{what}: a second socket of this kind")
    setattr(passed, kind, found)


class Relay:
    """Passes connections of a listening socket on to the socket at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._pairs: set[_End] = set()

    async def start(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        self._server = await loop.create_unix_server(lambda: _End(self), sock=listener, backlog=_BACKLOG)

    def stop_listening(self) -> None:
        """Connections stay; who comes now waits for the service manager to start another daemon."""
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        self.stop_listening()
        for end in list(self._pairs):
            end.abort()

    async def join(self, end: _End) -> None:
        """Connect a new connection's other side."""
        loop = asyncio.get_running_loop()
        try:
            _, other = await loop.create_unix_connection(lambda: _End(self, end), self._path)
        except OSError:
            end.abort()
            return
        end.join(other)

    def opened(self, end: _End) -> None:
        self._pairs.add(end)

    def closed(self, end: _End) -> None:
        self._pairs.discard(end)


class _End(asyncio.Protocol):
    """One side of a connection. What comes before the other side is there waits here and in the kernel."""

    def __init__(self, relay: Relay, other: _End | None = None) -> None:
        self._relay = relay
        self._other = other
        self._transport: asyncio.Transport | None = None
        self._joining: asyncio.Task[None] | None = None
        self._ended = False
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._relay.opened(self)
        if self._other is None:
            self._joining = asyncio.get_running_loop().create_task(self._relay.join(self))

    def join(self, other: _End) -> None:
        self._other = other
        if self._transport is None or self._transport.is_closing():
            other.abort()
        elif other._transport is not None:
            other._transport.write(self._early)
            self._early = b""
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.write(data)
        elif self._transport is not None:
            self._early += data
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        if self._other is not None and self._other._ended:
            return False  # both sides are through: this end closes, and takes the other along
        if self._other is not None and self._other._transport is not None and self._other._transport.can_write_eof():
            self._other._transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.closed(self)
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
