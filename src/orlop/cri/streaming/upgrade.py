"""From an HTTP request to a raw connection: the only module that knows HTTP. h11 knows the syntax; it comes
with the first connection."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from orlop.cri.streaming.link import SocketLink

if TYPE_CHECKING:
    import h11

_HEAD = 16384  # bytes of a request before it is refused
_BODY = 4096  # nobody needs one
_REFUSAL = 1.0  # seconds for a client to read why

HeaderList = list[tuple[str, str]]


class Refused(Exception):
    """An HTTP status and a line of text for the client."""

    def __init__(self, status: int, text: str, headers: HeaderList | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or []


class Request(msgspec.Struct, frozen=True):
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]  # names in lower case

    def tokens(self, name: str) -> list[str]:
        """The elements of a header that is a list, over all its lines."""
        lines = [value for known, value in self.headers if known == name]
        return [part.strip() for line in lines for part in line.split(",") if part.strip()]

    def header(self, name: str) -> str:
        return next((value for known, value in self.headers if known == name), "")

    @property
    def upgrade(self) -> str:
        """`websocket`, `spdy/3.1` or nothing."""
        if "upgrade" not in (token.lower() for token in self.tokens("connection")):
            return ""
        offered = {token.lower() for token in self.tokens("upgrade")}
        return next((name for name in ("websocket", "spdy/3.1") if name in offered), "")


class Exchange:
    """One request and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11

        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD)

    async def receive(self) -> Request | None:
        """The request; None where the client leaves without one. Raises Refused."""
        import h11

        request = None
        body = 0
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    data = await self._reader.read(_HEAD)
                    if not data and request is None:
                        return None
                    self._http.receive_data(data)
                elif isinstance(event, h11.Request):
                    request = _request(event)
                elif isinstance(event, h11.Data):
                    body += len(event.data)
                    if body > _BODY:
                        raise Refused(413, "a request for streaming has no body")
                elif isinstance(event, h11.ConnectionClosed):
                    return None
                else:  # EndOfMessage
                    return request
        except h11.RemoteProtocolError as error:
            raise Refused(error.error_status_hint, str(error)) from error

    async def switch(self, headers: HeaderList) -> SocketLink:
        """Answers 101; from here on the connection's bytes are the caller's."""
        import h11

        if self._http.next_event() is not h11.PAUSED:
            raise Refused(400, "the request can't be upgraded")
        answer = h11.InformationalResponse(status_code=101, headers=[("Connection", "Upgrade"), *headers])
        data = self._http.send(answer)
        self._writer.write(data or b"")
        return SocketLink(self._reader, self._writer, self._http.trailing_data[0])

    async def refuse(self, refused: Refused) -> None:
        import h11

        text = f"{refused}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))]
        response = h11.Response(
            status_code=refused.status, headers=[*headers, ("Connection", "close"), *refused.headers]
        )
        with contextlib.suppress(OSError, TimeoutError, h11.LocalProtocolError):
            async with asyncio.timeout(_REFUSAL):
                for event in (response, h11.Data(data=text), h11.EndOfMessage()):
                    self._writer.write(self._http.send(event) or b"")
                await self._writer.drain()
                self._writer.write_eof()
                # What the client still sends has to be read: closing on it would reset the connection, answer and all.
                while await self._reader.read(_HEAD):
                    pass


def websocket_headers(request: Request, protocol: str) -> HeaderList:
    """What accepts a WebSocket (RFC 6455, section 4.2.2). Raises Refused."""
    key = request.header("sec-websocket-key")
    if request.method != "GET" or not key:
        raise Refused(400, "a websocket begins with GET and Sec-WebSocket-Key")
    if request.header("sec-websocket-version") != "13":
        raise Refused(426, "websocket: only version 13 is spoken here", [("Sec-WebSocket-Version", "13")])
    from wsproto.utilities import generate_accept_token  # with all the rest of it

    headers = [("Upgrade", "websocket"), ("Sec-WebSocket-Accept", generate_accept_token(key.encode()).decode())]
    return headers + ([("Sec-WebSocket-Protocol", protocol)] if protocol else [])


def _request(event: h11.Request) -> Request:
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
    return Request(event.method.decode("latin-1"), event.target.decode("latin-1"), headers)
