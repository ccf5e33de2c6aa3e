"""Bounded buffers between the task that reads the connection and those that use its streams."""

from __future__ import annotations

import asyncio
from collections import deque

from orlop.wire.kubestream import Size

_OVERHEAD = 64  # bytes that a piece costs beside its content: many small pieces fill a pipe too


class Pipe:
    """Bytes on their way to one reader. `put` waits while it is full, which stops the reading of the connection."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._discards = False
        self._changed = asyncio.Event()

    async def put(self, data: bytes) -> None:
        if not data:
            return
        while self._size >= self._limit and not self._discards:
            await self._change()
        if self._discards or self._ended:
            return
        self._pieces.append(data)
        self._size += len(data) + _OVERHEAD
        self._changed.set()

    def end(self) -> None:
        """No more will come: `read` gives what is there, then nothing."""
        self._ended = True
        self._changed.set()

    def discard(self) -> None:
        """Nobody will read any more: what is there and what comes is dropped."""
        self._discards = self._ended = True
        self._pieces.clear()
        self._size = 0
        self._changed.set()

    async def read(self) -> bytes:
        """Some bytes; none at the end."""
        while not self._pieces:
            if self._ended:
                return b""
            await self._change()
        piece = self._pieces.popleft()
        self._size -= len(piece) + _OVERHEAD
        self._changed.set()
        return piece

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Sizes:
    """Terminal sizes on their way: whoever is late gets the newest alone."""

    def __init__(self) -> None:
        self._newest: Size | None = None
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, size: Size) -> None:
        self._newest = size
        self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    def __aiter__(self) -> Sizes:
        return self

    async def __anext__(self) -> Size:
        while self._newest is None:
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        size, self._newest = self._newest, None
        return size
