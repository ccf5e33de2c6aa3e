"""WebSocket clients are the library websockets: another implementation than the server's."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import wsproto
import wsproto.connection
import wsproto.events
from tests.cri.streaming_peers import CHUNK, FakeBackend, SpdyClient, http, serve, stands
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from orlop.cri.streaming.backend import Attach, Exec, PortForward
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.server import Server
from orlop.wire.kubestream import (
    CLOSE,
    ERROR,
    REMOTE_COMMAND_WEBSOCKET,
    RESIZE,
    STDERR,
    STDIN,
    STDOUT,
    TUNNEL,
    Protocol,
    Size,
    Status,
    decode_message,
    decode_status,
    encode_message,
    encode_size,
)

MB = 1 << 20
V5 = REMOTE_COMMAND_WEBSOCKET["v5.channel.k8s.io"]
CHANNELS = list(REMOTE_COMMAND_WEBSOCKET.values())


class Channels:
    """A client: what came on each channel until the server closed."""

    def __init__(self, connection: ClientConnection, protocol: Protocol) -> None:
        self._connection = connection
        self._protocol = protocol
        self._pieces: dict[int, list[bytes]] = {}

    async def send(self, channel: int, data: bytes) -> None:
        message = encode_message(channel, data, self._protocol)
        await self._connection.send(message.decode() if self._protocol.base64 else message)

    async def receive(self) -> tuple[int, bytes]:
        message = await self._connection.recv()
        assert isinstance(message, str) == self._protocol.base64
        channel, data = decode_message(message.encode() if isinstance(message, str) else message, self._protocol)
        self._pieces.setdefault(channel, []).append(data)
        return channel, data

    @property
    def got(self) -> dict[int, bytes]:
        """All that came, by channel."""
        return {channel: b"".join(pieces) for channel, pieces in self._pieces.items()}

    async def until_closed(self, code: int = 1000) -> None:
        received = None
        try:
            while True:
                await self.receive()
        except ConnectionClosed as closed:
            received = closed.rcvd
        assert received
        assert received.code == code

    def forget(self) -> None:
        self._pieces.clear()

    @property
    def status(self) -> Status:
        return decode_status(self.got[ERROR])


@asynccontextmanager
async def client(url: str, protocol: Protocol | None = V5) -> AsyncIterator[Channels]:
    offered = [Subprotocol(protocol.name)] if protocol else None
    async with connect(
        url.replace("http", "ws", 1), subprotocols=offered, max_size=None, proxy=None, ping_interval=None
    ) as connection:
        assert connection.subprotocol == (protocol.name if protocol else None)
        yield Channels(connection, protocol or REMOTE_COMMAND_WEBSOCKET["channel.k8s.io"])


def run(*command: str, stdin: bool = False, stderr: bool = False, tty: bool = False) -> Exec:
    return Exec("c", command, tty=tty, stdin=stdin, stdout=True, stderr=stderr)


@pytest.mark.parametrize("protocol", [*CHANNELS, None], ids=lambda protocol: protocol.name if protocol else "none")
def test_every_protocol_brings_output_and_status(protocol: Protocol | None) -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("both", stderr=True)), protocol) as channels:
            assert await channels.receive() == (STDOUT, b"")  # the server is there
            await channels.until_closed()
            assert (channels.got[STDOUT], channels.got[STDERR]) == (b"out", b"err")
            if protocol and protocol.version >= 4:
                assert channels.status == Status(0)
        async with client(server.url(run("exit", "3")), protocol) as channels:
            await channels.until_closed()
            if protocol and protocol.version >= 4:
                assert channels.status.exit_code == 3
            else:
                assert channels.got[ERROR] == b"command terminated with exit code 3"

    serve(test)


def test_input_may_end_before_output() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("sink", stdin=True))) as channels:
            await channels.send(STDIN, b"hello")
            await channels.send(CLOSE, bytes([STDIN]))
            await channels.until_closed()
            assert channels.got[STDOUT] == b"5"
            assert channels.status == Status(0)

    serve(test)


def test_a_message_in_fragments_is_one_message() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("sink", stdin=True))) as channels:
            await channels._connection.send([bytes([STDIN]), b"hel", b"lo"])
            await channels._connection.send([bytes([CLOSE]), bytes([STDIN])])
            await channels.until_closed()
            assert channels.got[STDOUT] == b"5"

    serve(test)


def test_attach_passes_both_directions() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        for protocol in CHANNELS:
            request = Attach("c", stdin=True, stdout=True, stderr=True)
            async with client(server.url(request), protocol) as channels:
                await channels.receive()
                await channels.send(STDIN, b"echo hello\n")
                assert await channels.receive() == (STDOUT, b"echo hello\n")

    serve(test)


def test_the_terminal_follows_the_newest_size() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        for protocol in CHANNELS:
            async with client(server.url(run("sizes", tty=True)), protocol) as channels:
                await channels.receive()
                for size, text in ((Size(80, 24), b"80x24"), (Size(0, 1), b"0x1")):
                    await channels.send(RESIZE, encode_size(size))
                    assert await channels.receive() == (STDOUT, text)
                await channels.until_closed()

    serve(test)


def test_much_goes_both_ways() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("cat", stdin=True))) as channels:

            async def write() -> None:
                for _ in range(100 * MB // len(CHUNK)):
                    await channels.send(STDIN, CHUNK)
                await channels.send(CLOSE, bytes([STDIN]))

            writing = asyncio.create_task(write())
            got = 0
            expected = memoryview(CHUNK * 2)
            while True:
                channel, data = await channels.receive()
                if channel != STDOUT:
                    break
                channels.forget()
                at = got % len(CHUNK)
                assert data == expected[at : at + len(data)]
                got += len(data)
            await writing
            assert got == 100 * MB
            assert channels.status == Status(0)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    serve(test)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_slow_reader_makes_the_process_wait() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("count", str(50 * MB)))) as channels:
            assert await stands(backend) < 16 * MB
            await channels.until_closed()
            assert len(channels.got[STDOUT]) == 50 * MB

    serve(test)


def test_pings_are_answered_while_a_process_runs() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("slow"))) as channels:
            async with asyncio.timeout(5):
                await (await channels._connection.ping())

    serve(test)


def test_a_client_that_goes_ends_the_call() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("slow"))) as channels:
            await channels.receive()
        while backend.running:
            await asyncio.sleep(0.01)
        assert backend.cancelled == 1

    serve(test)


def test_a_connection_without_movement_is_closed() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("slow"))) as channels:
            await channels.until_closed()
            assert backend.cancelled == 1

    serve(test, Limits(idle=0.3))


@pytest.mark.parametrize(
    ("protocol", "message", "code"),
    [
        (V5, b"", 1002),
        (V5, bytes([CLOSE]), 1002),
        (V5, bytes([CLOSE, 0, 1]), 1002),
        (REMOTE_COMMAND_WEBSOCKET["base64.channel.k8s.io"], "x", 1002),
        (REMOTE_COMMAND_WEBSOCKET["base64.channel.k8s.io"], "0***", 1002),
        (REMOTE_COMMAND_WEBSOCKET["base64.channel.k8s.io"], "0" + "A" * 2_000_000, 1009),
        (V5, bytes([CLOSE]) + bytes(2_000_000), 1009),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(protocol: Protocol, message: bytes | str, code: int) -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("slow", stdin=True)), protocol) as channels:
            await channels._connection.send(message)
            await channels.until_closed(code)

    serve(test)


def test_channels_that_nobody_has_are_ignored() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(run("sink", stdin=True))) as channels:
            for channel in (STDOUT, ERROR, 77):
                await channels.send(channel, bytes(MB))
            await channels.send(STDIN, b"hello")
            await channels.send(CLOSE, bytes([STDERR]))
            await channels.send(CLOSE, bytes([STDIN]))
            await channels.until_closed()
            assert channels.got[STDOUT] == b"5"

    serve(test)


def test_no_common_protocol_is_refused() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        for request in (run("slow"), PortForward("p", (7,))):
            with pytest.raises(InvalidStatus) as refused:
                async with client(server.url(request), Protocol("v9.channel.k8s.io", 9)):
                    pass
            assert refused.value.response.status_code == 403

    serve(test)


@pytest.mark.parametrize("protocol", [REMOTE_COMMAND_WEBSOCKET["v4.channel.k8s.io"], None])
def test_ports_have_channels(protocol: Protocol | None) -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        async with client(server.url(PortForward("p", (7, 9))), protocol) as channels:
            first = sorted([await channels.receive() for _ in range(4)])
            assert first == [(0, b"\7\0"), (1, b"\7\0"), (2, b"\x09\0"), (3, b"\x09\0")]
            await channels.send(0, b"hello")
            got = dict([await channels.receive() for _ in range(2)])
            assert got[0] == b"hello"
            assert got[3].endswith(b"connection refused")

    serve(test)


def test_channels_need_ports() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        v4 = REMOTE_COMMAND_WEBSOCKET["v4.base64.channel.k8s.io"]
        for ports in ((), (1, 2, 3, 4, 5, 6)):
            with pytest.raises(InvalidStatus) as refused:
                async with client(server.url(PortForward("p", ports)), v4):
                    pass
            assert refused.value.response.status_code == 400

    serve(test)


async def tunnel(url: str) -> SpdyClient:
    """SPDY in a WebSocket's messages. Its protocol's name has a slash, against RFC 6455: websockets refuses."""
    key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Protocol": TUNNEL}
    reader, writer, status, fields = await http(url, "GET", upgrade | key)
    assert (status, fields["sec-websocket-protocol"]) == (101, TUNNEL.lower())
    connection = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT)
    closed = False

    async def receive() -> bytes:
        nonlocal closed
        parts: list[bytes] = []
        while not parts and not closed:
            data = await reader.read(65536)
            if not data:
                return b""
            connection.receive_data(data)
            for event in connection.events():
                if isinstance(event, wsproto.events.CloseConnection):
                    closed = True
                else:
                    assert isinstance(event, wsproto.events.BytesMessage)
                    parts.append(bytes(event.data))
        return b"".join(parts)

    async def send(data: bytes) -> None:
        writer.write(connection.send(wsproto.events.BytesMessage(data)))
        await writer.drain()

    async def close() -> None:
        writer.close()

    return SpdyClient(receive, send, close)


def test_ports_are_forwarded_through_a_tunnel() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        spdy = await tunnel(server.url(PortForward("p")))
        error = await spdy.open(streamtype="error", port="7", requestid="0")
        data = await spdy.open(streamtype="data", port="7", requestid="0")
        assert error
        assert data

        async def write() -> None:
            for _ in range(20 * MB // len(CHUNK)):
                await data.write(CHUNK)
            await data.close()

        writing = asyncio.create_task(write())
        assert await data.read_all() == CHUNK * (20 * MB // len(CHUNK))
        assert await error.read_all() == b""
        await writing
        await spdy.ping()
        while not spdy.pongs:
            await asyncio.sleep(0.01)
        await spdy.close()

    serve(test)


def test_a_tunnel_without_movement_is_closed() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        spdy = await tunnel(server.url(PortForward("p")))
        await spdy.ended()
        assert spdy.goaway
        await spdy.close()

    serve(test, Limits(idle=0.3))
