"""Calls that make something under a name, while they are under way.

A call that repeats one under way joins it: the work is done once, and every caller is told the same. When the last
caller has gone before any was told, the work is called off, and what it has made is taken away again. Until that is
through, a call of the same name waits, as does another request of that name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from orlop.spec import cancel
from orlop.spec.errors import DeadlineExceeded, OrlopError

if TYPE_CHECKING:
    from orlop.cri.node import Node

T = TypeVar("T")
log = logging.getLogger("orlop.cri")
time_left: ContextVar[Callable[[], float | None] | None] = ContextVar("orlop-time-left", default=None)
# of the caller whose call this is, in seconds: one whose time is over has gone, though the loop hears of it later


class _Flight:
    def __init__(self, request: bytes) -> None:
        self.request = request
        self.token = cancel.Token()
        self.task: asyncio.Future[Any]
        self.waiting = 0
        self.told = False
        self.over = asyncio.Event()


class Flights:
    """Belongs to the loop's thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known: dict[str, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def join(self, name: str, request: bytes, make: Callable[[], T], undo: Callable[[T], object]) -> T:
        """What `make` has made for this request, by this call or by one under way that is the same."""
        while (flight := self._known.get(name)) is not None and (flight.token.cancelled or flight.request != request):
            await flight.over.wait()
        if flight is None:
            flight = self._known[name] = self._begin(request, make)
        flight.waiting += 1
        try:
            result: T = await asyncio.shield(flight.task)
            if (left := time_left.get()) is not None and left() == 0:
                raise DeadlineExceeded("the caller's time is over")
            flight.told = True
            return result
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._left(name, flight, undo)
            del flight  # an error in there has this frame in its traceback

    def _begin(self, request: bytes, make: Callable[[], T]) -> _Flight:
        flight = _Flight(request)
        flight.task = asyncio.wrap_future(self._node.submit(flight.token, make))
        return flight

    def _left(self, name: str, flight: _Flight, undo: Callable[[Any], object]) -> None:
        if flight.told or (flight.task.done() and flight.task.exception() is not None):
            self._forget(name, flight)
            return
        flight.token.cancel()
        task = asyncio.create_task(self._take_away(name, flight, undo))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_away(self, name: str, flight: _Flight, undo: Callable[[Any], object]) -> None:
        try:
            made = await flight.task
        except Exception as error:  # then it has left nothing
            if not isinstance(error, OrlopError):
                log.exception("%s failed", name)
            self._forget(name, flight)
            return
        try:
            await asyncio.wrap_future(self._node.submit(None, lambda: undo(made)))
        except OrlopError as error:
            log.error("%s: its caller has gone, and it can't be taken away: %s", name, error)
        finally:
            self._forget(name, flight)
            self._node.wake()

    def _forget(self, name: str, flight: _Flight) -> None:
        del self._known[name]
        flight.over.set()

    async def settle(self) -> None:
        """Wait until all that is to be taken away is gone."""
        while self._tasks:
            await asyncio.wait(self._tasks)
