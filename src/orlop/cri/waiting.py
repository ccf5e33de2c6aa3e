"""Waiting for descriptors, and passing bytes between them and streams, in the loop."""

from __future__ import annotations

import asyncio
import os

from orlop.cri.streaming.backend import ClientGone, Input, Output

CHUNK = 65536


async def readable(fd: int) -> None:
    """Wait until a descriptor can be read: a pidfd, until its process has ended (pidfd_open(2))."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    """Wait until a descriptor takes bytes, or says why it will not."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


def read_some(fd: int) -> bytes | None:
    """What is there now: None where that is nothing yet, empty at the end. A terminal whose other side is closed has
    ended too (EIO)."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class Outflow:
    """From a descriptor, which must not block, to a client. What nobody wants is read and dropped."""

    def __init__(self, fd: int, output: Output | None) -> None:
        self._fd = fd
        self._output = output
        self._last = False
        self._wake = asyncio.Event()

    def finish(self) -> None:
        """The process has ended: what is there now goes out, and nothing is waited for that others may still write."""
        self._last = True
        self._wake.set()

    async def run(self) -> None:
        """Until the descriptor's end, or what was there at `finish` is through."""
        while (data := read_some(self._fd)) != b"":
            if data is None:
                if self._last:
                    return
                await self._readable()
            elif self._output is not None:
                try:
                    await self._output.write(data)
                except ClientGone:
                    self._output = None

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake.clear()
        loop.add_reader(self._fd, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            loop.remove_reader(self._fd)


async def pass_input(source: Input, fd: int) -> None:
    """From a client to a descriptor, which must not block, until either ends."""
    while data := await source.read():
        if not await write_all(fd, data):
            return


async def write_all(fd: int, data: bytes) -> bool:
    """Whether all of it was taken; False where the reader is gone."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            await writable(fd)
        except OSError:  # EPIPE, or EIO of a terminal: nobody reads any more
            return False
    return True
