"""Both sides of the streaming server for its tests: a backend without containers, and a SPDY client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from orlop.cri.streaming.backend import Attach, Duplex, Exec, Stdio
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.pipe import Pipe
from orlop.cri.streaming.server import Server
from orlop.spec.errors import NotFound, Unavailable
from orlop.wire import spdy
from orlop.wire.kubestream import Status, decode_status
from orlop.wire.spdy import Connection

CHUNK = bytes(range(256)) * 256


class FakeBackend:
    """`exec` knows a few commands; `attach` is `cat`; port 7 gives everything back, port 9 is closed."""

    def __init__(self) -> None:
        self.written = 0
        self.cancelled = 0
        self.running = 0

    async def exec(self, request: Exec, stdio: Stdio) -> int:
        self.running += 1
        try:
            command: Callable[..., Awaitable[int | None]] = getattr(self, f"_{request.command[0]}")
            return await command(stdio, *request.command[1:]) or 0
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def attach(self, request: Attach, stdio: Stdio) -> None:
        if request.container == "gone":
            raise NotFound("container gone: not found")
        await self._cat(stdio)

    async def port_forward(self, sandbox: str, port: int, connection: Duplex) -> None:
        if port == 9:
            raise Unavailable(f"connect to port 9 of pod {sandbox}: connection refused")
        if port == 99:
            raise RuntimeError("a defect")
        while data := await connection.read():
            await connection.write(data)
        await connection.close()

    async def _cat(self, stdio: Stdio) -> None:
        assert stdio.stdin
        assert stdio.stdout
        while data := await stdio.stdin.read():
            await stdio.stdout.write(data)

    async def _exit(self, stdio: Stdio, status: str) -> int:
        return int(status)

    async def _fail(self, stdio: Stdio) -> int:
        raise NotFound("container c: not found")

    async def _defect(self, stdio: Stdio) -> int:
        raise RuntimeError("a defect")

    async def _both(self, stdio: Stdio) -> None:
        assert stdio.stdout
        assert stdio.stderr
        await stdio.stdout.write(b"out")
        await stdio.stderr.write(b"err")

    async def _count(self, stdio: Stdio, length: str) -> None:
        """Writes so many bytes."""
        assert stdio.stdout
        left = int(length)
        while left:
            piece = CHUNK[:left]
            await stdio.stdout.write(piece)
            self.written += len(piece)
            left -= len(piece)

    async def _sink(self, stdio: Stdio) -> None:
        """Reads to the end and says how much it was."""
        assert stdio.stdin
        assert stdio.stdout
        length = 0
        while data := await stdio.stdin.read():
            length += len(data)
        await stdio.stdout.write(b"%d" % length)

    async def _slow(self, stdio: Stdio) -> None:
        await asyncio.sleep(3600)

    async def _sizes(self, stdio: Stdio) -> None:
        assert stdio.sizes
        assert stdio.stdout
        async for size in stdio.sizes:
            await stdio.stdout.write(b"%dx%d" % (size.columns, size.rows))
            if size.columns == 0:
                return


class HTTPError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ClientStream:
    def __init__(self, client: SpdyClient, number: int) -> None:
        self._client = client
        self.number = number
        self.inbound = Pipe(client.buffer)
        self.replied: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def write(self, data: bytes) -> None:
        await self._client.send(self._client.connection.send_data(self.number, data))

    async def close(self) -> None:
        await self._client.send(self._client.connection.send_data(self.number, fin=True))

    async def read_all(self) -> bytes:
        parts = []
        while data := await self.inbound.read():
            parts.append(data)
        return b"".join(parts)


class SpdyClient:
    """As client-go's: streams are opened one after the other, each waits for its reply. `wrap`: a tunnel."""

    def __init__(self, receive: Any, send: Any, close: Any, buffer: int = 1 << 30) -> None:
        self.connection = Connection(client=True)
        self.buffer = buffer
        self.streams: dict[int, ClientStream] = {}
        self.pongs: list[int] = []
        self.goaway = False
        self._receive, self.send, self._close = receive, send, close
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while data := await self._receive():
                for event in self.connection.receive_data(data):
                    match event:
                        case spdy.DataReceived(number, data, fin):
                            stream = self.streams[number]
                            await stream.inbound.put(data)
                            if fin:
                                stream.inbound.end()
                        case spdy.StreamReplied(number):
                            self.streams[number].replied.set_result(True)
                        case spdy.StreamReset(number):
                            stream = self.streams[number]
                            stream.inbound.end()
                            if not stream.replied.done():
                                stream.replied.set_result(False)
                        case spdy.PingReceived(id):
                            self.pongs.append(id)
                        case spdy.GoAwayReceived():
                            self.goaway = True
        finally:
            for stream in self.streams.values():
                stream.inbound.end()
                if not stream.replied.done():
                    stream.replied.set_result(False)

    async def open(self, **headers: str) -> ClientStream | None:
        """None where the server refuses."""
        number, frame = self.connection.open_stream(headers.items())
        stream = self.streams[number] = ClientStream(self, number)
        await self.send(frame)
        return stream if await stream.replied else None

    async def streams_for(self, *types: str) -> list[ClientStream]:
        found = [await self.open(streamtype=type) for type in types]
        assert all(found)
        return [stream for stream in found if stream]

    async def ping(self) -> int:
        id, frame = self.connection.ping()
        await self.send(frame)
        return id

    async def ended(self) -> None:
        """Waits until the server has closed."""
        await self._reading

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._close()


async def http(
    url: str, method: str, headers: dict[str, str], body: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int, dict[str, str]]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return reader, writer, int(head[0].split()[1]), fields


async def spdy_client(url: str, *versions: str, buffer: int = 1 << 30) -> SpdyClient:
    wanted = {"X-Stream-Protocol-Version": ", ".join(versions)} if versions else {}
    upgrade = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "Content-Length": "0"}
    reader, writer, status, fields = await http(url, "POST", upgrade | wanted)
    if status != 101:
        text = (await reader.read()).decode()
        writer.close()
        raise HTTPError(status, text)
    assert fields.get("x-stream-protocol-version", "") in versions or not versions

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    async def close() -> None:
        writer.close()

    return SpdyClient(lambda: reader.read(65536), send, close, buffer)


async def outcome(error: ClientStream) -> Status:
    return decode_status(await error.read_all())


async def stands(backend: FakeBackend) -> int:
    """What has been written, once something is and no more comes."""
    held = -1
    while backend.written != held or not held:
        held = backend.written
        await asyncio.sleep(0.3)
    return held


def serve(test: Callable[[Server, FakeBackend], Awaitable[None]], limits: Limits | None = None) -> None:
    """Runs a test with a server and sees to it that nothing is left of either."""

    async def main() -> None:
        backend = FakeBackend()
        server = Server(backend, limits=limits)
        await server.start()
        try:
            async with asyncio.timeout(60):
                await test(server, backend)
        finally:
            await server.close()
        assert not backend.running
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in left if "orlop" in repr(task.get_coro())]

    asyncio.run(main())
