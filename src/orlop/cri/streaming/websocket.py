"""A WebSocket connection (RFC 6455) over a link: pieces of messages in, messages out. wsproto knows the frames."""

from __future__ import annotations

from collections import deque

import msgspec
import wsproto
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from orlop.cri.streaming.backend import ClientGone
from orlop.cri.streaming.link import Link

MAX_SENT = 32768  # bytes of a message that is sent


class Piece(msgspec.Struct, frozen=True):
    """Of a message, as it comes: a large one is not kept until it is whole."""

    data: bytes
    ends: bool  # the message


class WebSocket:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._connection = Connection(wsproto.ConnectionType.SERVER)
        self._events: deque[Event] = deque()
        self._closed = False

    async def receive(self) -> Piece | None:
        """None at the end: the client closed, went away, or broke the protocol and was told so."""
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, BytesMessage):
                    return Piece(bytes(event.data), event.message_finished)
                if isinstance(event, TextMessage):
                    return Piece(event.data.encode(), event.message_finished)
                await self._control(event)
            if self._closed or not (data := await self._link.receive()):
                return None
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        try:
            self._connection.receive_data(data)
            self._events += self._connection.events()  # a broken protocol is a CloseConnection among them
        except RemoteProtocolError:  # bytes after the close
            self._closed = True

    async def _control(self, event: Event) -> None:
        try:
            if isinstance(event, Ping):
                await self._link.answer(self._connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                self._closed = True
                await self._link.answer(self._connection.send(event.response()))
        except (ClientGone, LocalProtocolError):  # it went away, or both sides close
            self._closed = True

    async def send(self, data: bytes, text: bool = False) -> None:
        """One message. Waits while the client is slow. Raises ClientGone."""
        await self._link.send(self._frame(TextMessage(data.decode()) if text else BytesMessage(data)))

    async def answer(self, data: bytes) -> None:
        """As `send`, for short messages: doesn't wait behind others."""
        await self._link.answer(self._frame(BytesMessage(data)))

    def _frame(self, message: Event) -> bytes:
        try:
            return self._connection.send(message)
        except LocalProtocolError as error:
            raise ClientGone("the client has closed the connection") from error

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """The client answers with a close of its own, which ends `receive`. Repeatable."""
        try:
            await self._link.answer(self._connection.send(CloseConnection(code, reason or None)))
        except (ClientGone, LocalProtocolError):
            pass


class TunnelLink:
    """A link inside a WebSocket: what matters is the bytes, not how messages cut them."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> bytes:
        while (piece := await self._websocket.receive()) is not None:
            if piece.data:
                return piece.data
        return b""

    async def send(self, data: bytes) -> None:
        await self._websocket.send(data)

    async def answer(self, data: bytes) -> None:
        await self._websocket.answer(data)

    async def farewell(self) -> None:
        await self._websocket.close()
