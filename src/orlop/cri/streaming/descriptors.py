"""Between streams and descriptors, for backends: pipes and terminals of processes, sockets. Without threads."""

from __future__ import annotations

import asyncio
import errno
import os

from orlop.cri.streaming.backend import Input, Output

_CHUNK = 65536


async def from_descriptor(fd: int, output: Output | None) -> None:
    """Passes what comes out of a descriptor until its end; without an output, drops it. The caller closes both."""
    os.set_blocking(fd, False)
    while data := await _read(fd):
        if output is not None:
            await output.write(data)


async def to_descriptor(source: Input, fd: int) -> None:
    """Passes what a client sends until its end, or until nobody reads the descriptor any more. The caller closes it."""
    os.set_blocking(fd, False)
    while data := await source.read():
        if not await _write(fd, memoryview(data)):
            return


async def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            await _ready(fd, writing=False)
        except OSError as error:
            # A terminal whose processes have gone (ioctl_tty(2)), a connection that was torn down.
            if error.errno in (errno.EIO, errno.ECONNRESET):
                return b""
            raise


async def _write(fd: int, data: memoryview) -> bool:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            await _ready(fd, writing=True)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO, errno.ECONNRESET):
                return False
            raise
    return True


async def _ready(fd: int, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_writer if writing else loop.add_reader)(fd, wake)
    try:
        await ready
    finally:
        (loop.remove_writer if writing else loop.remove_reader)(fd)
