from __future__ import annotations

import asyncio
import resource
import time

import pytest
from tests.cri.streaming_peers import CHUNK, FakeBackend, SpdyClient, outcome, serve, spdy_client, stands

from orlop.cri.streaming.backend import Attach, Exec, PortForward
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.server import Server
from orlop.wire.kubestream import Size, Status, encode_size

V4, V1 = "v4.channel.k8s.io", "channel.k8s.io"
FORWARD = "portforward.k8s.io"
MB = 1 << 20


def run(*command: str, stdin: bool = False, stderr: bool = False, tty: bool = False) -> Exec:
    return Exec("c", command, tty=tty, stdin=stdin, stdout=True, stderr=stderr)


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_exit_status_arrives(status: int) -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("exit", str(status))), V4)
        error, stdout = await client.streams_for("error", "stdout")
        assert await stdout.read_all() == b""
        assert (await outcome(error)).exit_code == status
        await client.close()

    serve(test)


def test_old_versions_have_text() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        for versions in ((V1,), ()):
            client = await spdy_client(server.url(run("exit", "3")), *versions)
            error, _ = await client.streams_for("error", "stdout")
            assert await error.read_all() == b"command terminated with exit code 3"
            await client.close()

    serve(test)


def test_output_comes_on_the_stream_that_it_was_written_to() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("both", stderr=True)), "v5.channel.k8s.io", V4)
        error, stdout, stderr = await client.streams_for("error", "stdout", "stderr")
        assert await stdout.read_all() == b"out"
        assert await stderr.read_all() == b"err"
        assert await outcome(error) == Status(0)
        await client.close()

    serve(test)


def test_what_the_backend_refuses_is_told() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        for command, message in (("fail", "container c: not found"), ("defect", "exec in container c: internal error")):
            client = await spdy_client(server.url(run(command)), V4)
            error, _ = await client.streams_for("error", "stdout")
            assert await outcome(error) == Status(None, message)
            await client.close()
        client = await spdy_client(server.url(Attach("gone", stdout=True)), V4)
        error, _ = await client.streams_for("error", "stdout")
        assert await outcome(error) == Status(None, "container gone: not found")
        await client.close()

    serve(test)


def test_input_may_end_before_output() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("sink", stdin=True)), V4)
        error, stdin, stdout = await client.streams_for("error", "stdin", "stdout")
        await stdin.write(b"hello")
        await stdin.close()
        assert await stdout.read_all() == b"5"
        assert await outcome(error) == Status(0)
        await client.close()

    serve(test)


def test_attach_passes_both_directions() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(Attach("c", stdin=True, stdout=True, stderr=True)), V4)
        error, stdin, stdout, _ = await client.streams_for("error", "stdin", "stdout", "stderr")
        await stdin.write(b"echo hello\n")
        assert await stdout.inbound.read() == b"echo hello\n"
        await stdin.close()
        assert await outcome(error) == Status(0)
        await client.close()

    serve(test)


def test_the_terminal_follows_the_newest_size() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("sizes", tty=True)), V4)
        error, stdout, resize = await client.streams_for("error", "stdout", "resize")
        await resize.write(encode_size(Size(80, 24)))
        assert await stdout.inbound.read() == b"80x24"
        await resize.write(encode_size(Size(100, 30))[:7])
        await resize.write(encode_size(Size(100, 30))[7:])
        assert await stdout.inbound.read() == b"100x30"
        await resize.write(b'{"Width":"wide"}')
        assert await outcome(error) == Status(0)  # rubbish ends the sizes, not the process
        await client.close()

    serve(test)


def test_much_goes_both_ways() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("cat", stdin=True)), V4)
        error, stdin, stdout = await client.streams_for("error", "stdin", "stdout")

        async def write() -> None:
            for _ in range(100 * MB // len(CHUNK)):
                await stdin.write(CHUNK)
            await stdin.close()

        writing = asyncio.create_task(write())
        got, expected = 0, memoryview(CHUNK * 2)
        while data := await stdout.inbound.read():
            at = got % len(CHUNK)
            assert data == expected[at : at + len(data)]
            got += len(data)
        await writing
        assert got == 100 * MB
        assert await outcome(error) == Status(0)
        await client.close()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    serve(test)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_slow_reader_makes_the_process_wait() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("count", str(50 * MB))), V4, buffer=65536)
        error, stdout = await client.streams_for("error", "stdout")
        assert await stands(backend) < 16 * MB  # what sockets and buffers hold
        assert len(await stdout.read_all()) == 50 * MB
        assert await outcome(error) == Status(0)
        await client.close()

    serve(test)


def test_a_process_that_does_not_read_makes_the_client_wait() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("slow", stdin=True)), V4)
        _, stdin, _ = await client.streams_for("error", "stdin", "stdout")
        sent = 0

        async def write() -> None:
            nonlocal sent
            while sent < 100 * MB:
                await stdin.write(CHUNK)
                sent += len(CHUNK)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(write(), 1)
        assert sent < 32 * MB
        await client.close()

    serve(test)


def test_input_that_nobody_reads_does_not_hold_up_the_end() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("exit", "4", stdin=True)), V4)
        error, stdin, _ = await client.streams_for("error", "stdin", "stdout")
        for _ in range(10 * MB // len(CHUNK)):
            await stdin.write(CHUNK)
        assert (await outcome(error)).exit_code == 4
        await client.close()

    serve(test)


def test_a_client_that_goes_ends_the_call() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("slow")), V4)
        await client.streams_for("error", "stdout")
        while not backend.running:
            await asyncio.sleep(0.01)
        await client.close()
        while backend.running:
            await asyncio.sleep(0.01)
        assert backend.cancelled == 1

    serve(test)


def test_closing_the_server_ends_calls() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("slow")), V4)
        await client.streams_for("error", "stdout")
        while not backend.running:
            await asyncio.sleep(0.01)
        await server.close()
        assert backend.cancelled == 1
        await client.ended()
        await client.close()

    serve(test)


def test_a_connection_without_movement_is_closed() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("slow")), V4)
        await client.streams_for("error", "stdout")
        for count in range(1, 5):  # keep-alives keep it
            await asyncio.sleep(0.5)
            await client.ping()
            while len(client.pongs) < count:
                await asyncio.sleep(0.01)
        assert backend.running
        began = time.monotonic()
        await client.ended()
        assert 0.2 < time.monotonic() - began < 20
        assert client.goaway
        assert backend.cancelled == 1
        await client.close()

    serve(test, Limits(idle=1.6))


def test_streams_that_do_not_come_are_not_waited_for_forever() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("cat", stdin=True)), V4)
        (error,) = await client.streams_for("error")
        assert await outcome(error) == Status(None, "the client has not opened its streams in 0.2 s: stdin, stdout")
        await client.ended()
        await client.close()

    serve(test, Limits(creation=0.2, linger=0.2))


def test_a_client_that_does_not_close_is_closed() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("exit", "0")), V4)
        await client.streams_for("error", "stdout")
        await client.ended()
        assert client.goaway
        await client.close()

    serve(test, Limits(linger=0.2))


def test_streams_that_were_not_agreed_on_are_refused() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("slow")), V4)
        assert await client.open(streamtype="error")
        for type in ("error", "stdin", "stderr", "resize", "data", ""):
            assert await client.open(streamtype=type) is None
        await client.close()

    serve(test)


def test_rubbish_ends_the_connection() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(run("slow")), V4)
        await client.streams_for("error", "stdout")
        await client.send(b"\xff" * 100)
        await client.ended()
        assert client.goaway
        await client.close()

    serve(test)


async def forward(client: SpdyClient, port: int, id: int | None) -> tuple[bytes, bytes]:
    """Sends a word through; what came back, and the error."""
    headers = {"port": str(port)} | ({} if id is None else {"requestid": str(id)})
    error = await client.open(streamtype="error", **headers)
    assert error
    await error.close()
    data = await client.open(streamtype="data", **headers)
    assert data
    await data.write(b"hello")
    await data.close()
    return await data.read_all(), await error.read_all()


def test_ports_are_forwarded_several_at_once() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(PortForward("p")), FORWARD)
        results = await asyncio.gather(*(forward(client, 7, id) for id in range(20)))
        assert results == [(b"hello", b"")] * 20
        refused = (b"", b"error forwarding port 9 to pod p: connect to port 9 of pod p: connection refused")
        assert await forward(client, 9, 20) == refused
        assert (await forward(client, 99, 21))[1].endswith(b"internal error")
        assert await forward(client, 7, 22) == (b"hello", b"")
        await client.close()

    serve(test)


def test_old_clients_name_no_request() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(PortForward("p")))
        for _ in range(3):
            assert await forward(client, 7, None) == (b"hello", b"")
        await client.close()

    serve(test)


@pytest.mark.parametrize(
    "headers",
    [
        {"streamtype": "data"},
        {"streamtype": "data", "port": "0"},
        {"streamtype": "data", "port": "http"},
        {"streamtype": "stdin", "port": "7"},
    ],
)
def test_streams_without_a_port_are_refused(headers: dict[str, str]) -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(PortForward("p")), FORWARD)
        assert await client.open(**headers) is None
        await client.close()

    serve(test)


def test_half_a_pair_is_reset_after_a_while() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(PortForward("p")), FORWARD)
        error = await client.open(streamtype="error", port="7", requestid="1")
        assert error
        assert await client.open(streamtype="error", port="7", requestid="1") is None
        assert await client.open(streamtype="data", port="8", requestid="1") is None
        assert await error.read_all() == b""
        assert error.number not in client.connection.streams
        await client.close()

    serve(test, Limits(creation=0.3))


def test_much_goes_through_a_forwarded_port() -> None:
    async def test(server: Server, backend: FakeBackend) -> None:
        client = await spdy_client(server.url(PortForward("p")), FORWARD)
        assert await client.open(streamtype="error", port="7", requestid="1")
        data = await client.open(streamtype="data", port="7", requestid="1")
        assert data

        async def write() -> None:
            for _ in range(20 * MB // len(CHUNK)):
                await data.write(CHUNK)
            await data.close()

        writing = asyncio.create_task(write())
        assert await data.read_all() == CHUNK * (20 * MB // len(CHUNK))
        await writing
        await client.close()

    serve(test)
