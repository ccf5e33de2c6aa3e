"""Kubernetes' channels over a WebSocket: the first byte of a message says which."""

from __future__ import annotations

from orlop.cri.streaming.backend import ClientGone
from orlop.cri.streaming.pipe import Pipe
from orlop.cri.streaming.websocket import MAX_SENT, Piece, WebSocket
from orlop.spec.errors import InvalidArgument
from orlop.wire.kubestream import CLOSE, Protocol, decode_message, encode_message

_MAX_WHOLE = 1 << 20  # bytes of a message that has to be whole before it can be read: base64

# RFC 6455, section 7.4.1
_PROTOCOL_ERROR, _TOO_BIG = 1002, 1009


class WebSocketChannel:
    """One channel. It is there from the beginning, in both directions."""

    def __init__(self, session: WebSocketSession, number: int, limit: int) -> None:
        self._session = session
        self._open = True
        self.number = number
        self.inbound = Pipe(limit)

    async def read(self) -> bytes:
        return await self.inbound.read()

    async def write(self, data: bytes) -> None:
        if not self._open:
            raise ClientGone("the channel is closed")
        view = memoryview(data)
        for at in range(0, len(view), MAX_SENT):
            await self._session.send(self.number, view[at : at + MAX_SENT])

    async def close(self) -> None:
        """Clients learn it from the end of the connection only: no version has a message for it in this direction."""
        self._open = False


class WebSocketSession:
    def __init__(self, websocket: WebSocket, protocol: Protocol, channels: int, limit: int) -> None:
        self._websocket = websocket
        self._protocol = protocol
        self._message: int | None = None  # the channel of the message whose pieces are coming
        self._whole = bytearray()  # such a message, where it has to be whole
        self.channels = tuple(WebSocketChannel(self, number, limit) for number in range(channels))

    async def run(self) -> None:
        """Reads until the client closes; then all channels have ended."""
        try:
            while (piece := await self._websocket.receive()) is not None:
                try:
                    await self._take(piece)
                except InvalidArgument as error:
                    await self._websocket.close(_PROTOCOL_ERROR, error.message)
                except _TooBig:
                    await self._websocket.close(_TOO_BIG)
        finally:
            for channel in self.channels:
                channel.inbound.end()

    async def _take(self, piece: Piece) -> None:
        if self._protocol.base64:
            self._collect(piece.data)
            if piece.ends:
                channel, data = decode_message(bytes(self._whole), self._protocol)
                self._whole.clear()
                await self._deliver(channel, data)
            return
        data = piece.data
        if self._message is None:
            if not data:
                if piece.ends:
                    raise InvalidArgument("message of a channel: empty")
                return
            self._message, data = data[0], data[1:]
        if self._message == CLOSE and self._protocol.version >= 5:
            self._collect(data)
        else:
            await self._deliver(self._message, data)
        if piece.ends:
            if self._message == CLOSE:
                self._end_channel()
            self._message = None

    def _collect(self, data: bytes) -> None:
        if len(self._whole) + len(data) > _MAX_WHOLE:
            self._whole.clear()
            raise _TooBig
        self._whole += data

    async def _deliver(self, channel: int, data: bytes) -> None:
        if channel < len(self.channels):
            await self.channels[channel].inbound.put(data)

    def _end_channel(self) -> None:
        numbers, self._whole = self._whole, bytearray()
        if self._protocol.version < 5:
            return
        if len(numbers) != 1:
            raise InvalidArgument(f"message that closes a channel: {len(numbers)} bytes")
        if numbers[0] < len(self.channels):
            self.channels[numbers[0]].inbound.end()

    async def send(self, channel: int, data: memoryview | bytes) -> None:
        await self._websocket.send(encode_message(channel, data, self._protocol), text=self._protocol.base64)

    async def finish(self) -> None:
        for channel in self.channels:
            await channel.close()
            channel.inbound.discard()
        await self._websocket.close()

    async def say_goodbye(self) -> None:
        await self._websocket.close()


class _TooBig(Exception):
    """A message that would have to be kept is larger than what we keep."""
