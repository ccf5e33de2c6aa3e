from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from tests.cri.streaming_peers import FakeBackend, HTTPError, http, outcome, serve, spdy_client

from orlop.cri.streaming.backend import Attach, Exec, PortForward, Request
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.link import keep_alive
from orlop.cri.streaming.server import Server
from orlop.cri.streaming.tokens import Tokens
from orlop.spec.errors import FailedPrecondition, InvalidArgument, OrlopError, ResourceExhausted, Unavailable

RUN = Exec("c", ("exit", "0"), stdout=True)
V4 = "v4.channel.k8s.io"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
WEBSOCKET = {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x"}


def clock() -> tuple[list[float], Callable[[], float]]:
    time = [0.0]
    return time, lambda: time[0]


def test_a_token_is_good_once() -> None:
    tokens = Tokens(clock()[1], lifetime=60, most=10)
    token = tokens.issue(RUN)
    assert tokens.take(token + "x") is None
    assert tokens.take(token) is RUN
    assert tokens.take(token) is None


def test_a_token_expires() -> None:
    time, now = clock()
    tokens = Tokens(now, lifetime=60, most=10)
    token = tokens.issue(RUN)
    time[0] = 59
    later = tokens.issue(RUN)
    time[0] = 60
    assert tokens.take(token) is None
    assert tokens.take(later) is RUN


def test_tokens_that_wait_are_limited() -> None:
    time, now = clock()
    tokens = Tokens(now, lifetime=60, most=2)
    issued = {tokens.issue(RUN) for _ in range(2)}
    assert len(issued) == 2
    with pytest.raises(ResourceExhausted, match="2 streaming requests wait"):
        tokens.issue(RUN)
    time[0] = 61
    tokens.issue(RUN)


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (Exec("c", ("ls",)), "at least one"),
        (Exec("c", (), stdout=True), "cmd: empty"),
        (Exec("c", ("ls",), tty=True, stderr=True), "stderr: with tty"),
        (Attach("c"), "at least one"),
        (PortForward("p", (80, 0)), "port 0"),
    ],
)
def test_requests_are_checked_when_the_url_is_made(request_: Request, match: str) -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        with pytest.raises(InvalidArgument, match=match):
            server.url(request_)

    serve(test)


def test_there_are_no_urls_without_a_server() -> None:
    with pytest.raises(FailedPrecondition, match="not running"):
        Server(FakeBackend()).url(RUN)


def test_a_taken_port_is_named() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        port = int(server.base.rpartition(":")[2])
        with pytest.raises(OrlopError, match=f"listen on 127.0.0.1 port {port}") as refused:
            await Server(backend, port=port).start()
        assert not isinstance(refused.value, Unavailable)

    serve(test)


def test_a_url_is_good_once() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        url = server.url(RUN)
        client = await spdy_client(url, V4)
        error, _ = await client.streams_for("error", "stdout")
        assert (await outcome(error)).exit_code == 0
        await client.close()
        with pytest.raises(HTTPError, match="used before") as refused:
            await spdy_client(url, V4)
        assert refused.value.status == 404

    serve(test)


def test_a_url_is_good_for_what_it_was_made_for() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        with pytest.raises(HTTPError) as refused:
            await spdy_client(server.url(RUN).replace("/exec/", "/attach/"), V4)
        assert refused.value.status == 404

    serve(test)


def test_an_expired_url_is_refused() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        url = server.url(RUN)
        await asyncio.sleep(0.1)
        with pytest.raises(HTTPError, match="expired"):
            await spdy_client(url, V4)

    serve(test, Limits(token=0.05))


def test_no_common_version_is_refused_with_those_that_there_are() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        reader, writer, status, fields = await http(
            server.url(RUN), "POST", UPGRADE | {"X-Stream-Protocol-Version": "v9.channel.k8s.io"}
        )
        assert status == 403
        assert fields["x-accepted-stream-protocol-versions"]
        assert b"v4.channel.k8s.io" in await reader.read()
        writer.close()

    serve(test)


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        (None, "GET", {}, 400),
        (None, "POST", {"Upgrade": "SPDY/3.1"}, 400),
        (None, "POST", {"Connection": "Upgrade", "Upgrade": "h2c"}, 400),
        (None, "PUT", UPGRADE, 405),
        (None, "POST", UPGRADE | {"Content-Length": "100000"}, 413),
        (None, "POST", WEBSOCKET | {"Sec-WebSocket-Version": "13"}, 400),
        (None, "GET", WEBSOCKET, 426),
        (None, "GET", WEBSOCKET | {"Sec-WebSocket-Key": "", "Sec-WebSocket-Version": "13"}, 400),
        (None, "GET", {"X": "x" * 100_000}, 431),
        (None, "G\x00T", {}, 400),
        ("/", "GET", UPGRADE, 404),
        ("/exec", "GET", UPGRADE, 404),
        ("/exec/../etc/passwd", "GET", UPGRADE, 404),
        ("/metrics", "GET", UPGRADE, 404),
    ],
)
def test_other_requests_are_refused(path: str | None, method: str, headers: dict[str, str], status: int) -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        url = server.url(RUN) if path is None else server.base + path
        body = bytes(int(headers.get("Content-Length", 0)))
        reader, writer, got, fields = await http(url, method, headers, body)
        assert got == status
        text = await reader.read()
        assert text.count(b"\n") == 1
        assert b"Traceback" not in text
        assert len(text) == int(fields["content-length"])
        writer.close()

    serve(test)


def test_a_client_that_says_nothing_is_sent_away() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        host, port = server.base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /exec")
        assert b"408" in (await reader.read()).splitlines()[0]
        writer.close()

    serve(test, Limits(creation=0.2))


def test_connections_are_limited() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        slow = Exec("c", ("slow",), stdout=True)
        clients = [await spdy_client(server.url(slow), V4) for _ in range(2)]
        url = server.url(RUN)
        with pytest.raises(HTTPError) as refused:
            await spdy_client(url, V4)
        assert refused.value.status == 503
        for client in clients:
            await client.close()
        while True:
            try:
                await (await spdy_client(url, V4)).close()  # the token was not spent
                break
            except HTTPError as error:  # until the server has seen that they have gone
                if error.status != 503:
                    raise
                await asyncio.sleep(0.01)

    serve(test, Limits(connections=2))


def test_bytes_that_come_with_the_request_are_not_lost() -> None:
    """Some clients don't wait for the answer before they open streams."""

    async def test(server: Server, backend: FakeBackend) -> None:
        from orlop.wire.spdy import Connection, DataReceived

        connection = Connection(client=True)
        opened = [connection.open_stream([("streamtype", type)])[1] for type in ("error", "stdout")]
        host, port = server.base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        path = server.url(Exec("c", ("exit", "5"), stdout=True)).removeprefix(server.base)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        writer.write(head.encode() + b"".join(opened))
        await reader.readuntil(b"\r\n\r\n")
        text = b""
        while not text:
            for event in connection.receive_data(await reader.read(1000)):
                text += event.data if isinstance(event, DataReceived) else b""
        assert text == b"command terminated with exit code 5"
        writer.close()

    serve(test)


def test_clients_that_vanish_are_found_out() -> None:
    with socket.socket() as connection:
        keep_alive(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
