"""Exec, attach and port-forward with clients that stream, over SPDY and over WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tests.cri.conformance.pod import Container, Pod
from tests.cri.conftest import Client
from tests.cri.streaming_peers import SpdyClient, spdy_client
from tests.cri.test_life import refused
from tests.cri.test_streaming_websocket import Channels, tunnel
from tests.cri.test_streaming_websocket import client as websocket
from tests.harness import wait_for

from orlop._stubs.cri import api_pb2 as api
from orlop.wire.kubestream import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, Size, Status, decode_status, encode_size

_NAMES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "resize": RESIZE}
MB = 1 << 20


class Spdy:
    """A session as kubectl before 1.30 has it. `streams` are those that the request asked for."""

    def __init__(self, client: SpdyClient) -> None:
        self.client = client
        self.streams: dict[str, Any] = {}

    async def send(self, name: str, data: bytes) -> None:
        await self.streams[name].write(data)

    async def end(self, name: str) -> None:
        await self.streams[name].close()

    async def until(self, text: bytes) -> bytes:
        """Standard output up to a text."""
        seen = b""
        while text not in seen:
            data = await self.streams["stdout"].inbound.read()
            assert data, seen
            seen += data
        return seen

    async def rest(self) -> tuple[bytes, bytes, Status]:
        """What else comes on standard output and error, and the status."""
        names = ("stdout", "stderr", "error")
        parts = [await self.streams[name].read_all() if name in self.streams else b"" for name in names]
        return parts[0], parts[1], decode_status(parts[2])


class WebSocket:
    """The same as kubectl has it now."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def send(self, name: str, data: bytes) -> None:
        await self.channels.send(_NAMES[name], data)

    async def end(self, name: str) -> None:
        await self.channels.send(CLOSE, bytes([_NAMES[name]]))

    async def until(self, text: bytes) -> bytes:
        while text not in self.channels.got.get(STDOUT, b""):
            await self.channels.receive()
        return self.channels.got[STDOUT]

    async def rest(self) -> tuple[bytes, bytes, Status]:
        await self.channels.until_closed()
        got = self.channels.got
        return got.get(STDOUT, b""), got.get(STDERR, b""), decode_status(got[ERROR])


Session = Spdy | WebSocket
Connect = Callable[..., Any]


@asynccontextmanager
async def over_spdy(url: str, *names: str) -> AsyncIterator[Session]:
    client = await spdy_client(url, "v4.channel.k8s.io")
    session = Spdy(client)
    try:
        found = await client.streams_for("error", *names)
        session.streams = dict(zip(("error", *names), found, strict=True))
        yield session
    finally:
        await client.close()


@asynccontextmanager
async def over_websocket(url: str, *names: str) -> AsyncIterator[Session]:
    async with websocket(url) as channels:
        yield WebSocket(channels)


@pytest.fixture(params=[over_spdy, over_websocket], ids=["spdy", "websocket"])
def connect(request: pytest.FixtureRequest) -> Connect:
    found: Connect = request.param
    return found


def run(work: Any) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(limited())


def exec_url(container: Container, *command: str, **streams: bool) -> str:
    asked = {"stdout": True, "stderr": True} | streams
    return str(container.client.Exec(container_id=container.id, cmd=command, **asked).url)


# --- exec


def test_output_error_and_status(pod: Pod, connect: Connect) -> None:
    container = pod.run()

    async def work() -> None:
        url = exec_url(container, "sh", "-c", "echo out; echo err >&2; exit 3")
        async with connect(url, "stdout", "stderr") as session:
            stdout, stderr, status = await session.rest()
            assert (stdout, stderr, status.exit_code) == (b"out\n", b"err\n", 3)

    run(work())


def test_input_ends_before_output_does(pod: Pod, connect: Connect) -> None:
    container = pod.run()

    async def work() -> None:
        async with connect(exec_url(container, "wc", "-c", stdin=True), "stdin", "stdout", "stderr") as session:
            for _ in range(64):
                await session.send("stdin", b"x" * 65536)
            await session.end("stdin")
            stdout, _, status = await session.rest()
            assert (stdout.strip(), status.exit_code) == (b"%d" % (64 * 65536), 0)

    run(work())


def test_much_output(pod: Pod, connect: Connect) -> None:
    container = pod.run()

    async def work() -> None:
        async with connect(exec_url(container, "head", "-c", str(8 * MB), "/dev/zero"), "stdout", "stderr") as session:
            stdout, _, status = await session.rest()
            assert (len(stdout), status.exit_code) == (8 * MB, 0)

    run(work())


def test_a_terminal_and_its_size(pod: Pod, connect: Connect) -> None:
    container = pod.run()

    async def work() -> None:
        url = exec_url(container, "sh", tty=True, stdin=True, stderr=False)
        async with connect(url, "stdin", "stdout", "resize") as session:
            await session.send("resize", encode_size(Size(columns=93, rows=41)))
            await session.send("stdin", b"until stty size | grep '41 93'; do usleep 10000; done; echo size-$?\r")
            assert b"41 93" in await session.until(b"size-0")
            await session.send("stdin", b"exit 4\r")
            assert (await session.rest())[2].exit_code == 4

    run(work())


def test_a_command_that_cannot_be_run(pod: Pod, connect: Connect) -> None:
    container = pod.run()

    async def work() -> None:
        async with connect(exec_url(container, "/no/such/command"), "stdout", "stderr") as session:
            status = (await session.rest())[2]
            assert status.exit_code in (None, 127)
            assert status.exit_code == 127 or "/no/such/command" in status.message

    run(work())


def test_a_client_that_goes_takes_its_process_along(pod: Pod, connect: Connect) -> None:
    container = pod.run()

    async def work() -> None:
        async with connect(exec_url(container, "sleep", "4711", stdin=True), "stdin", "stdout", "stderr"):
            while "4711" not in await asyncio.to_thread(container.sh, "ps"):
                await asyncio.sleep(0.02)

    run(work())
    wait_for(lambda: "4711" not in container.sh("ps"), "the process to go")


def test_a_url_is_good_for_one_use(pod: Pod) -> None:
    url = exec_url(pod.run(), "true")

    async def work() -> None:
        async with over_websocket(url) as session:
            assert (await session.rest())[2].exit_code == 0
        with pytest.raises(Exception, match=r"404|403"):
            async with over_websocket(url):
                pass

    run(work())


@pytest.mark.parametrize("gone", ["stopped", "removed"])
def test_urls_of_a_container_that_has_gone(pod: Pod, connect: Connect, gone: str) -> None:
    """The URL was made before: the client is told on its error stream, and no command runs."""
    container = pod.run()
    urls = [exec_url(container, "true"), attach_url(container, stdout=True, stderr=True)]
    container.stop()
    if gone == "removed":
        container.remove()

    async def said(url: str) -> str:
        async with connect(url, "stdout", "stderr") as session:
            output, error, status = await session.rest()
        assert (output, error) == (b"", b"")
        assert status.exit_code != 0
        return str(status.message)

    for url, stopped in zip(urls, ("is not running", "it is exited"), strict=True):
        text = run(said(url))
        assert (stopped if gone == "stopped" else "no such container") in text
        assert text.isprintable()


def test_streams_that_make_no_sense(client: Client, pod: Pod) -> None:
    container = pod.run()
    for wrong in ({"stdout": False, "stderr": False}, {"tty": True, "stderr": True}):
        refused(lambda fields=wrong: exec_url(container, "true", **fields), grpc.StatusCode.INVALID_ARGUMENT)
    container.stop()
    refused(lambda: exec_url(container, "true"), grpc.StatusCode.FAILED_PRECONDITION)


# --- ExecSync


def test_a_command_that_takes_too_long_is_ended(pod: Pod) -> None:
    container = pod.run()
    refused(lambda: container.exec("sleep", "4712", timeout=1), grpc.StatusCode.DEADLINE_EXCEEDED)
    wait_for(lambda: "4712" not in container.sh("ps"), "the command to go", 5)


def test_a_command_in_the_background_is_not_waited_for(pod: Pod) -> None:
    assert pod.run().sh("sleep 5 & echo done") == "done"


# --- attach


def attach_url(container: Container, **streams: bool) -> str:
    return str(container.client.Attach(container_id=container.id, **streams).url)


def test_attach_brings_what_is_written_from_now_on(pod: Pod, connect: Connect) -> None:
    container = pod.run("sh", "-c", 'while read line; do echo "<$line>"; echo "!$line" >&2; done', stdin=True)

    async def work() -> None:
        url = attach_url(container, stdin=True, stdout=True, stderr=True)
        async with connect(url, "stdin", "stdout", "stderr") as session:
            await session.send("stdin", b"hello\n")
            await session.until(b"<hello>\n")
        url = attach_url(container, stdin=True, stdout=True, stderr=True)
        async with connect(url, "stdin", "stdout", "stderr") as session:  # input stays open for the next
            await session.send("stdin", b"again\n")
            await session.until(b"<again>\n")

    run(work())
    assert container.status.state == api.CONTAINER_RUNNING
    wait_for(lambda: len(container.lines()) == 4, "the log")
    assert ("stderr", "F", "!hello") in container.lines()


def test_input_once_ends_with_the_first_client(pod: Pod, connect: Connect) -> None:
    container = pod.run("cat", stdin=True, stdin_once=True)

    async def work() -> None:
        url = attach_url(container, stdin=True, stdout=True)
        async with connect(url, "stdin", "stdout") as session:
            await session.send("stdin", b"hello\n")
            await session.until(b"hello\n")

    run(work())
    assert container.ended().exit_code == 0


@pytest.mark.parametrize("tty", [False, True])
def test_a_session_ends_with_its_input_where_the_containers_stays_open(pod: Pod, connect: Connect, tty: bool) -> None:
    """And none of that input is lost, though the container takes its time."""
    script = "read first; echo <$first>; sleep 1; n=0; while read line; do n=$((n+1)); echo $n; done"
    container = pod.run("sh", "-c", script.replace("<", "'<'").replace(">", "'>'"), stdin=True, tty=tty)
    lines = 200 if tty else 20_000  # of a terminal no more is kept than 4,095 characters

    async def work() -> None:
        url = attach_url(container, stdin=True, stdout=True, tty=tty)
        async with connect(url, "stdin", "stdout", *(["resize"] if tty else [])) as session:
            await session.send("stdin", b"go\n")
            await session.until(b"<go>")
            await session.send("stdin", b"0123456789\n" * lines)
            await session.end("stdin")
            assert (await session.rest())[2].exit_code in (None, 0)

    run(work())
    assert container.status.state == api.CONTAINER_RUNNING
    wait_for(lambda: ("stdout", "F", f"{lines}") in [(*line[:2], line[2].rstrip("\r")) for line in container.lines()],
             "all of the input to be read")  # fmt: skip


def test_the_end_of_input_means_nothing_to_a_container_without(pod: Pod, connect: Connect) -> None:
    container = pod.run("sh", "-c", "while [ ! -e /go ]; do usleep 20000; done; echo later; sleep 1000")

    async def work() -> None:
        async with connect(attach_url(container, stdin=True, stdout=True), "stdin", "stdout") as session:
            await session.end("stdin")
            await asyncio.sleep(0.5)
            await asyncio.to_thread(container.sh, "touch /go")
            await session.until(b"later\n")

    run(work())


@pytest.mark.parametrize("tty", [False, True])
def test_attach_to_a_container_that_is_otherwise(pod: Pod, connect: Connect, tty: bool) -> None:
    """With the streams of a terminal to one that has none, and the reverse: as crictl does that is told so."""
    container = pod.run("sh", "-c", "read x; echo out-of-$x; read x; echo err-of-$x >&2; cat", stdin=True, tty=tty)

    async def work() -> None:
        url = attach_url(container, stdin=True, stdout=True, stderr=tty, tty=not tty)
        async with connect(url, "stdin", "stdout", "stderr" if tty else "resize") as session:
            await session.send("stdin", b"one\n")
            await session.until(b"out-of-one")
            await session.send("stdin", b"two\n")
            await session.until(b"err-of-two")

    run(work())


def test_attach_to_a_terminal(pod: Pod, connect: Connect) -> None:
    container = pod.run("sh", stdin=True, tty=True)

    async def work() -> None:
        url = attach_url(container, stdin=True, stdout=True, tty=True)
        async with connect(url, "stdin", "stdout", "resize") as session:
            await session.send("resize", encode_size(Size(columns=93, rows=41)))
            await session.send("stdin", b"until stty size | grep '41 93'; do usleep 10000; done; echo size-$?\r")
            assert b"41 93" in await session.until(b"size-0")

    run(work())


# --- port-forward


@pytest.fixture(params=["spdy", "tunnel"])
def forward(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return tunnel if request.param == "tunnel" else lambda url: spdy_client(url, "portforward.k8s.io")


def test_a_port_is_forwarded(client: Client, pod: Pod, forward: Callable[[str], Any]) -> None:
    pod.run("sh", "-c", "httpd -p 127.0.0.1:81 -h /www; httpd -f -p 82 -h /www")

    async def one(spdy: SpdyClient, port: int, number: int) -> tuple[bytes, bytes]:
        headers = {"port": str(port), "requestid": str(number)}
        error = await spdy.open(streamtype="error", **headers)
        assert error
        await error.close()
        data = await spdy.open(streamtype="data", **headers)
        assert data
        await data.write(b"GET /index.html HTTP/1.0\r\n\r\n")
        answer = await data.read_all()
        await data.close()
        return answer, await error.read_all()

    async def work() -> None:
        spdy = await forward(str(client.PortForward(pod_sandbox_id=pod.id, port=[81, 82, 83]).url))
        try:
            for number, port in enumerate((81, 82)):
                while (got := await one(spdy, port, number))[1]:  # not yet listening
                    await asyncio.sleep(0.05)
                    number += 10
                assert got[0].endswith(b"\r\n\r\nhello\n")
            assert b"refused" in (await one(spdy, 83, 99))[1]
        finally:
            await spdy.close()

    run(work())


def test_ports_of_a_pod_that_is_stopped(client: Client, make_pod: Callable[..., Pod]) -> None:
    pod = make_pod()
    pod.stop()
    refused(lambda: client.PortForward(pod_sandbox_id=pod.id, port=[80]), grpc.StatusCode.FAILED_PRECONDITION)
