"""Links: bytes in both directions, over a socket or inside the messages of a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Protocol

from orlop.cri.streaming.backend import ClientGone

_READ = 65536
_KEEP_ALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 9}
_ANSWERS = 1 << 20  # bytes of answers to pings and the like that a client may leave unread


class Link(Protocol):
    async def receive(self) -> bytes:
        """Some bytes; none at the end."""

    async def send(self, data: bytes) -> None:
        """Waits while the peer is slow. Raises ClientGone."""

    async def answer(self, data: bytes) -> None:
        """As `send`, for short frames: doesn't wait behind the output of a process."""

    async def farewell(self) -> None:
        """Says that nothing will follow; what the peer still sends can be received."""


class SocketLink:
    """A connection that asyncio accepted. `first`: bytes that came with the request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b"") -> None:
        self._reader = reader
        self._writer = writer
        self._first = first
        self._sending = asyncio.Lock()
        self.last_active = asyncio.get_running_loop().time()

    async def receive(self) -> bytes:
        if self._first:
            data, self._first = self._first, b""
            return data
        try:
            data = await self._reader.read(_READ)
        except ConnectionError:
            return b""
        self._touch()
        return data

    async def send(self, data: bytes) -> None:
        async with self._sending:
            self._write(data)
            try:
                await self._writer.drain()
            except ConnectionError as error:
                raise ClientGone("the client has gone") from error
            self._touch()

    async def answer(self, data: bytes) -> None:
        if self._writer.transport.get_write_buffer_size() > _ANSWERS:
            await self.send(data)
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._writer.transport.is_closing():
            raise ClientGone("the client has gone")
        self._writer.write(data)
        self._touch()

    async def farewell(self) -> None:
        with contextlib.suppress(OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()

    def _touch(self) -> None:
        self.last_active = asyncio.get_running_loop().time()


async def idle(link: SocketLink, timeout: float) -> None:
    """Returns when nothing has moved for `timeout` seconds."""
    loop = asyncio.get_running_loop()
    while (left := link.last_active + timeout - loop.time()) > 0:
        await asyncio.sleep(left)


def keep_alive(connection: socket.socket) -> None:
    """Has the kernel find out about a client whose machine has gone (tcp(7)): in two and a half minutes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def close(writer: asyncio.StreamWriter, timeout: float) -> None:
    """Sends what is still to be sent, for `timeout` seconds, and closes."""
    writer.close()
    try:
        async with asyncio.timeout(timeout):
            await writer.wait_closed()
    except (TimeoutError, OSError):
        writer.transport.abort()
