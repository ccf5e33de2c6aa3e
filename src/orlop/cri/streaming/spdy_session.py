"""A SPDY connection of a client: its streams, and the task that reads for all of them."""

from __future__ import annotations

from collections.abc import Callable

from orlop.cri.streaming.backend import ClientGone
from orlop.cri.streaming.link import Link
from orlop.cri.streaming.pipe import Pipe
from orlop.wire import spdy
from orlop.wire.spdy import Connection, Event
from orlop.wire.spdy_headers import Headers, ProtocolError


class SpdyStream:
    """One stream that the client opened. What it sends is read with `read`; `write` and `close` are our half."""

    def __init__(self, session: SpdySession, number: int, headers: Headers, limit: int) -> None:
        self._session = session
        self.number = number
        self.headers = headers
        self.inbound = Pipe(limit)

    async def read(self) -> bytes:
        return await self.inbound.read()

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        for at in range(0, len(view), spdy.MAX_DATA):
            await self._session.send(self.number, view[at : at + spdy.MAX_DATA])

    async def close(self) -> None:
        await self._session.end(self.number)

    async def reset(self, status: int = spdy.CANCEL) -> None:
        await self._session.reset(self, status)


class SpdySession:
    """`opened` is asked whether it wants a stream that the client opens; a stream that is refused is reset."""

    def __init__(self, link: Link, opened: Callable[[SpdyStream], bool], limit: int) -> None:
        self._link = link
        self._opened = opened
        self._limit = limit
        self._connection = Connection(client=False)
        self._streams: dict[int, SpdyStream] = {}
        self._broken = False

    async def run(self) -> None:
        """Reads until the client closes, or breaks the protocol; then all streams have ended."""
        try:
            while not self._broken and (data := await self._link.receive()):
                for event in self._connection.receive_data(data):
                    await self._take(event)
        except ProtocolError:
            self._broken = True
            await self._answer(self._connection.goaway(spdy.GOAWAY_PROTOCOL_ERROR))
        finally:
            for stream in self._streams.values():
                stream.inbound.end()

    async def _take(self, event: Event) -> None:
        match event:
            case spdy.DataReceived(number, data, fin):
                if (stream := self._streams.get(number)) is not None:
                    await stream.inbound.put(data)
                    self._ended(stream, fin)
            case spdy.StreamOpened(number, headers, fin):
                await self._open(SpdyStream(self, number, headers, self._limit), fin)
            case spdy.StreamReset(number):
                if (stream := self._streams.pop(number, None)) is not None:
                    stream.inbound.end()
            case spdy.HeadersReceived(number, _, fin):
                if (stream := self._streams.get(number)) is not None:
                    self._ended(stream, fin)
            case spdy.PingReceived(id, answers) if not answers:
                await self._answer(self._connection.pong(id))
            case spdy.StreamRefused(_, answer):
                await self._answer(answer)
            case _:
                pass  # GOAWAY: the client closes next; settings and windows: nothing here depends on them

    async def _open(self, stream: SpdyStream, fin: bool) -> None:
        if not self._opened(stream):
            await self._answer(self._connection.reset(stream.number, spdy.REFUSED_STREAM))
            return
        self._streams[stream.number] = stream
        await self._answer(self._connection.reply(stream.number))
        self._ended(stream, fin)

    def _ended(self, stream: SpdyStream, fin: bool) -> None:
        if fin:
            stream.inbound.end()
            self._forget(stream.number)

    def _forget(self, number: int) -> None:
        if not self._connection.is_open(number):
            self._streams.pop(number, None)

    async def _answer(self, data: bytes) -> None:
        try:
            await self._link.answer(data)
        except ClientGone:
            self._broken = True

    async def send(self, number: int, data: memoryview) -> None:
        if not self._connection.can_send(number):
            raise ClientGone("the client has closed the stream")
        await self._link.send(self._connection.send_data(number, data))

    async def end(self, number: int) -> None:
        if self._connection.can_send(number):
            data = self._connection.send_data(number, fin=True)
            self._forget(number)
            await self._link.send(data)

    async def reset(self, stream: SpdyStream, status: int) -> None:
        self._streams.pop(stream.number, None)
        stream.inbound.discard()
        await self._answer(self._connection.reset(stream.number, status))

    async def finish(self) -> None:
        """Ends what is open of our half, and takes no new streams; the client closes next."""
        for stream in list(self._streams.values()):
            stream.inbound.discard()
            await self.end(stream.number)

    async def say_goodbye(self) -> None:
        """For a client that doesn't close by itself."""
        await self._answer(self._connection.goaway())
        await self._link.farewell()
