"""Exec, attach and port-forward: what the streaming server's clients are connected to."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import containers
from orlop.cri.node import Node
from orlop.cri.streaming.backend import Attach, ClientGone, Duplex, Exec, Input, Output, PortForward, Stdio
from orlop.cri.waiting import Outflow, pass_input, readable, writable
from orlop.engine.config import ContainerConfig, ExecConfig
from orlop.engine.exec import ExecSession
from orlop.shim.client import ShimClient
from orlop.spec.errors import FailedPrecondition, InvalidArgument, Unavailable
from orlop.sys.netns import socket_in
from orlop.wire import frames
from orlop.wire.kubestream import Size

_WINSIZE = struct.Struct("HHHH")
_CONNECT_SECONDS = 10.0
_LAST_WORDS = 0.2  # seconds that the container's answer to the last of a client's input is passed on


class Sessions:
    """The streaming server's backend."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- exec

    async def exec(self, request: Exec, stdio: Stdio) -> int:
        if request.tty:
            return await self._on_terminal(request, stdio)
        return await self._on_pipes(request, stdio)

    def _begin(self, request: Exec, fds: tuple[int, int, int], held: contextlib.ExitStack) -> ExecSession:
        """Takes over what is held: a caller that has gone must not close descriptors while they are handed on."""
        with held:
            container = containers.find(self._node, request.container)
            config = ExecConfig(command=request.command, tty=request.tty, open_stdin=request.stdin)
            return self._node.engine.containers.exec(container.id, config, fds)

    async def _on_pipes(self, request: Exec, stdio: Stdio) -> int:
        with contextlib.ExitStack() as ours:
            with contextlib.ExitStack() as theirs:
                null = _End(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
                theirs.callback(null.close)
                fds, outflows, feeding = [null.fd] * 3, list[Outflow](), None
                for number, output in ((1, stdio.stdout), (2, stdio.stderr)):
                    if output is not None:
                        mine, other = _pipe(ours, theirs, to_process=False)
                        fds[number] = other.fd
                        outflows.append(Outflow(mine.fd, output))
                if stdio.stdin is not None:
                    mine, other = _pipe(ours, theirs, to_process=True)
                    fds[0] = other.fd
                session = await self._node.begin(
                    ExecSession.abandon, self._begin, request, (fds[0], fds[1], fds[2]), theirs.pop_all()
                )
            if stdio.stdin is not None:
                feeding = _feed(stdio.stdin, mine)
            return await _until_end(session, outflows, feeding)

    async def _on_terminal(self, request: Exec, stdio: Stdio) -> int:
        session = await self._node.begin(
            ExecSession.abandon, self._begin, request, (-1, -1, -1), contextlib.ExitStack()
        )
        master = _End(session.master, blocking=False)
        sizes = asyncio.create_task(_resize(master.fd, stdio.sizes))
        feeding = pass_input(stdio.stdin, master.fd) if stdio.stdin is not None else None
        try:
            return await _until_end(session, [Outflow(master.fd, stdio.stdout)], feeding)
        finally:
            await _cancel(sizes)
            master.close()

    # --- attach

    async def attach(self, request: Attach, stdio: Stdio) -> None:
        """Where the container's input stays open for the next who attaches, the end of the client's is that of the
        session, as with containerd and CRI-O: `kubectl run -i --leave-stdin-open` waits for it. Where the container has
        no input, it means nothing."""
        client, config = await self._node.begin(lambda made: made[0].close(), self._attached, request)
        sending, fed = asyncio.Lock(), asyncio.Event()
        once = config.stdin_once and not config.tty
        stays = (once or not config.open_stdin) and (request.stdout or request.stderr)
        with client:
            passing = asyncio.create_task(_shim_output(client, _outputs(stdio, config.tty or request.tty), fed))
            tasks: list[asyncio.Task[Any]] = [passing, asyncio.create_task(fed.wait())]
            if stdio.sizes is not None and config.tty:
                tasks.append(asyncio.create_task(_shim_sizes(client, sending, stdio.sizes)))
            if stdio.stdin is not None:
                tasks.append(asyncio.create_task(_shim_input(client, sending, stdio.stdin, once, stays)))
            try:
                await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
                if request.stdout or request.stderr:
                    await asyncio.wait((passing,), timeout=_LAST_WORDS)
                if passing.done():
                    passing.result()
            finally:
                await _cancel(*tasks)

    def _attached(self, request: Attach) -> tuple[ShimClient, ContainerConfig]:
        container = containers.find(self._node, request.container)
        client = self._node.engine.containers.attach(container.id)
        try:
            client.attach(stdin=request.stdin, output=request.stdout or request.stderr)
        except BaseException:
            client.close()
            raise
        return client, container.config

    # --- port-forward

    async def port_forward(self, sandbox: str, port: int, connection: Duplex) -> None:
        with await self._connected(sandbox, port) as peer:
            fd = peer.fileno()
            coming = asyncio.create_task(Outflow(fd, connection).run())
            going = asyncio.create_task(_forward(connection, peer))
            try:
                await coming
                await connection.close()
                await going
            except ClientGone:
                return
            finally:
                await _cancel(coming, going)

    async def _connected(self, sandbox: str, port: int) -> socket.socket:
        """A connection to the port on the pod's own loopback device, of either family."""
        if not 0 < port < 65536:
            raise InvalidArgument(f"port {port}: not a port")
        found = await self._node.call(self._node.engine.pods.get, sandbox)
        if not found.running:
            raise FailedPrecondition(f"pod sandbox {found.id[:12]} is not ready")
        refused: OSError | None = None
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                peer = await self._node.call(socket_in, found.record.pid, family)
            except OSError as error:
                raise FailedPrecondition(f"pod sandbox {found.id[:12]}: its network is gone") from error
            peer.setblocking(False)
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(peer, (address, port))
                return peer
            except (OSError, TimeoutError) as error:
                peer.close()
                refused = error if isinstance(error, OSError) else refused
        reason = os.strerror(refused.errno).lower() if refused and refused.errno else "no answer"
        raise Unavailable(f"connect to port {port} of pod sandbox {found.id[:12]}: {reason}")


# --- a process of exec


class _End:
    """One end of a pipe, or a terminal's master: closed once, by whoever is first."""

    def __init__(self, fd: int, blocking: bool = True) -> None:
        self.fd = fd
        os.set_blocking(fd, blocking)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack, to_process: bool) -> tuple[_End, _End]:
    """Our end, which does not block, and the process's."""
    read, write = os.pipe2(os.O_CLOEXEC)
    mine, other = (write, read) if to_process else (read, write)
    ends = _End(mine, blocking=False), _End(other)
    ours.callback(ends[0].close)
    theirs.callback(ends[1].close)
    return ends


async def _until_end(session: ExecSession, outflows: list[Outflow], feeding: Coroutine[Any, Any, None] | None) -> int:
    """Pass streams until the process ends, then what it has left in them. It is killed when this is cancelled."""
    pidfd = os.pidfd_open(session.pid)
    tasks = [asyncio.create_task(outflow.run()) for outflow in outflows]
    fed = [asyncio.create_task(feeding)] if feeding is not None else []
    try:
        try:
            await readable(pidfd)
        except BaseException:
            session.kill()
            await asyncio.shield(readable(pidfd))
            session.wait()
            raise
        code = session.wait()
        for outflow in outflows:
            outflow.finish()
        await asyncio.gather(*tasks)
        return code
    finally:
        os.close(pidfd)
        await _cancel(*tasks, *fed)


async def _feed(source: Input, end: _End) -> None:
    """Standard input: closed when the client's ends."""
    await pass_input(source, end.fd)
    end.close()


async def _resize(master: int, sizes: AsyncIterator[Size] | None) -> None:
    if sizes is None:
        return
    async for size in sizes:
        with contextlib.suppress(OSError):
            fcntl.ioctl(master, termios.TIOCSWINSZ, _WINSIZE.pack(size.rows, size.columns, 0, 0))


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- a container's own streams


def _outputs(stdio: Stdio, tty: bool) -> dict[int, Output | None]:
    """Where each of the container's streams goes. A terminal, be it the container's or the client's, has one output."""
    return {frames.STDOUT: stdio.stdout, frames.STDERR: stdio.stdout if tty else stdio.stderr}


async def _shim_output(client: ShimClient, outputs: dict[int, Output | None], fed: asyncio.Event) -> None:
    """Until the container's end, or the client's. `fed` is set by the answer that `_shim_input` asks for."""
    while True:
        while client.pending:
            frame = client.receive()
            if frame is None or frame.type == frames.EXIT:
                return
            if frame.type == frames.STATE:
                fed.set()
            output = outputs.get(frame.stream) if frame.type == frames.OUTPUT else None
            if output is not None:
                try:
                    await output.write(frame.payload)
                except ClientGone:
                    return
        await readable(client.fileno())
        if not client.collect():
            return


async def _shim_input(client: ShimClient, sending: asyncio.Lock, source: Input, once: bool, stays: bool) -> None:
    """Without `once` the container's input stays open, for whoever attaches next. Unless the session stays, the shim is
    asked for an answer after the last byte: what it has not read when its client leaves would be lost."""
    while data := await source.read():
        for start in range(0, len(data), frames.MAX_PAYLOAD):
            await _send(client, sending, frames.encode_stdin(data[start : start + frames.MAX_PAYLOAD]))
    if once:
        await _send(client, sending, frames.encode(frames.STDIN_EOF))
    if not stays:
        await _send(client, sending, frames.encode(frames.STATUS))


async def _shim_sizes(client: ShimClient, sending: asyncio.Lock, sizes: AsyncIterator[Size]) -> None:
    async for size in sizes:
        await _send(client, sending, frames.encode_resize(size.rows, size.columns))


async def _send(client: ShimClient, sending: asyncio.Lock, data: bytes) -> None:
    async with sending:
        rest = data
        while rest:
            taken = client.send_some(rest)
            rest = rest[taken:]
            if rest:
                await writable(client.fileno())


async def _forward(connection: Duplex, peer: socket.socket) -> None:
    """From the client to the port; its end is passed on, so that an answer can still come."""
    await pass_input(connection, peer.fileno())
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_WR)


# --- the calls that bring the URLs


async def exec_url(node: Node, request: api.ExecRequest) -> api.ExecResponse:
    if not request.cmd:
        raise InvalidArgument("cmd is missing")
    _check_streams(request)
    container = await node.call(containers.find, node, request.container_id)
    if not container.running:
        raise FailedPrecondition(f"container {container.id[:12]} is not running")
    asked = Exec(
        container=container.id,
        command=tuple(request.cmd),
        tty=request.tty,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
    )
    return api.ExecResponse(url=node.stream_server.url(asked))


async def attach_url(node: Node, request: api.AttachRequest) -> api.AttachResponse:
    _check_streams(request)
    container = await node.call(containers.find, node, request.container_id)
    if not container.running:
        raise FailedPrecondition(f"container {container.id[:12]} is not running")
    asked = Attach(
        container=container.id,
        tty=request.tty,  # which streams the client opens; the container's own terminal is another matter
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
    )
    return api.AttachResponse(url=node.stream_server.url(asked))


def _check_streams(request: api.ExecRequest | api.AttachRequest) -> None:
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("one of stdin, stdout and stderr must be asked for")
    if request.tty and request.stderr:
        raise InvalidArgument("tty and stderr exclude each other: a terminal has one output")


async def port_forward_url(node: Node, request: api.PortForwardRequest) -> api.PortForwardResponse:
    if not request.pod_sandbox_id:
        raise InvalidArgument("pod_sandbox_id is missing")
    sandbox = await node.call(node.engine.pods.get, request.pod_sandbox_id)
    if not sandbox.running:
        raise FailedPrecondition(f"pod sandbox {sandbox.id[:12]} is not ready")
    asked = PortForward(sandbox=sandbox.id, ports=tuple(request.port))
    return api.PortForwardResponse(url=node.stream_server.url(asked))
