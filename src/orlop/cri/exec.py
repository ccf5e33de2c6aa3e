"""ExecSync: a command in a container, to its end, with what it wrote."""

from __future__ import annotations

import asyncio
import os

from orlop._stubs.cri import api_pb2 as api
from orlop.cri.containers import find
from orlop.cri.node import Node
from orlop.cri.waiting import readable
from orlop.engine.config import ExecConfig
from orlop.engine.exec import ExecSession
from orlop.spec.errors import DeadlineExceeded, InvalidArgument

OUTPUT_MAX = 16 << 20  # bytes of each stream; what a command writes beyond is read and dropped
_CHUNK = 65536


async def exec_sync(node: Node, request: api.ExecSyncRequest) -> api.ExecSyncResponse:
    if not request.cmd:
        raise InvalidArgument("cmd is missing")
    if request.timeout < 0:
        raise InvalidArgument(f"timeout: {request.timeout} is below zero")
    readers, writers = zip(os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC), strict=True)
    try:
        session = await node.begin(ExecSession.abandon, _begin, node, request, writers)
    except BaseException:
        for fd in readers:
            os.close(fd)
        raise
    return await _to_the_end(session, readers, request.timeout)


def _begin(node: Node, request: api.ExecSyncRequest, writers: tuple[int, ...]) -> ExecSession:
    """Takes the descriptors over: a caller that has gone must not close them while they are handed on."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        container = find(node, request.container_id)
        stdout, stderr = writers
        config = ExecConfig(command=tuple(request.cmd))
        return node.engine.containers.exec(container.id, config, (null, stdout, stderr))
    finally:
        for fd in (null, *writers):
            os.close(fd)


async def _to_the_end(session: ExecSession, readers: tuple[int, ...], timeout: int) -> api.ExecSyncResponse:
    """Read both streams until the command has ended. Processes that it has left behind are not waited for."""
    outputs = [Collected(fd) for fd in readers]
    pidfd = os.pidfd_open(session.pid)
    try:
        try:
            async with asyncio.timeout(timeout or None):
                await readable(pidfd)
        except BaseException as error:
            session.kill()
            await asyncio.shield(readable(pidfd))
            session.wait()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"exec: the command did not end within {timeout} s") from None
            raise
        code = session.wait()
        for output in outputs:
            output.drain()
        return api.ExecSyncResponse(stdout=bytes(outputs[0].data), stderr=bytes(outputs[1].data), exit_code=code)
    finally:
        os.close(pidfd)
        for output in outputs:
            output.close()


class Collected:
    """What comes out of a pipe, up to OUTPUT_MAX bytes. Takes the descriptor over."""

    def __init__(self, fd: int) -> None:
        self.data = bytearray()
        self._fd = fd
        self._open = True
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._leave()
            return False
        self.data += chunk[: OUTPUT_MAX - len(self.data)]
        return True

    def drain(self) -> None:
        """Read what is there, without waiting."""
        while self._open and self._read():
            pass

    def _leave(self) -> None:
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._fd)

    def close(self) -> None:
        self._leave()
        os.close(self._fd)
