"""`Node`: what the calls of the interface work on, and how they reach the engine.

The engine is synchronous. A call is a coroutine that does its work in one of a bounded number of threads; nothing of it
may block the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from orlop.cri.blobs import Blobs
from orlop.cri.calls import Calls
from orlop.cri.collector import Collector
from orlop.cri.exits import Exits
from orlop.cri.flights import Flights
from orlop.cri.handlers import OWN, Handler
from orlop.cri.network import PodNetwork
from orlop.cri.samples import Samples
from orlop.cri.settings import Settings
from orlop.cri.streaming.backend import Backend
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.server import Server
from orlop.distribution.hosts import Hosts
from orlop.engine import settle
from orlop.engine.engine import Engine
from orlop.engine.records import Container, is_sandbox, is_whole
from orlop.spec import cancel
from orlop.spec.errors import OrlopError, Unavailable

if TYPE_CHECKING:
    from orlop.distribution.client import Registry

log = logging.getLogger("orlop.cri")
_PATIENT = 256  # calls that wait for the end of a container at once
P = ParamSpec("P")
T = TypeVar("T")


class Node:
    """`workers` is how many calls work at once; more wait for their turn."""

    def __init__(self, engine: Engine, settings: Settings | None = None, workers: int = 32) -> None:
        self.engine = engine
        self.settings = settings or Settings()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="orlop-cri")
        self._patient = ThreadPoolExecutor(_PATIENT, thread_name_prefix="orlop-wait")
        self._members = ThreadPoolExecutor(workers, thread_name_prefix="orlop-pod")  # parts of a call, so that
        # calls which wait for theirs can't keep them from being done
        self.exits = Exits(self)
        self.samples = Samples()
        self.flights = Flights(self)
        self.blobs = Blobs(engine)
        self.collector = Collector(engine)
        self.network = PodNetwork(engine, self.settings.network)
        self.calls = Calls()
        self.handlers: tuple[Handler, ...] = (Handler(name=OWN, recursive_read_only=True),)  # as last looked at
        self._registry: tuple[tuple[str, ...], Registry | None] = ((), None)
        self._stream_server: Server | None = None
        self._sleepers: set[asyncio.Event] = set()
        self.leaving = False  # streams of events end

    @property
    def hosts(self) -> Hosts:
        """How registries are spoken to."""
        return Hosts(tuple(map(Path, self.settings.certs)))

    @property
    def registry(self) -> Registry:
        """The client for pulls with no credentials but the machine's; made for the first of them, and anew for the
        first after the settings have changed. Pulls under way go on with the one that they have."""
        from orlop.distribution.client import Registry

        certs, client = self._registry
        if client is None or certs != self.settings.certs:
            certs, client = self.settings.certs, Registry(self.hosts)
            self._registry = certs, client
        return client

    @property
    def stream_server(self) -> Server:
        """Where exec, attach and port-forward happen; there while the node is served."""
        if self._stream_server is None:
            raise Unavailable("the streaming server is not running")
        return self._stream_server

    async def serve_streams(self, backend: Backend) -> None:
        """Start the streaming server."""
        limits = Limits(idle=self.settings.stream_idle_timeout)
        streams = Server(backend, self.settings.streaming_address, self.settings.streaming_port, limits)
        await streams.start()
        self._stream_server = streams

    async def end_streams(self) -> None:
        """End every session and the streaming server."""
        if self._stream_server is not None:
            await self._stream_server.close()
            self._stream_server = None

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the engine in a thread of its own. Where the caller goes, the work is called off: it ends
        where it would next wait, and leaves things as it does after an error."""
        token = cancel.Token()
        try:
            return await asyncio.wrap_future(self.submit(token, lambda: function(*args, **kwargs)))
        except asyncio.CancelledError:
            token.cancel()
            raise

    async def call_patiently(self, function: Callable[[], T]) -> T:
        """As `call`, for what mostly waits: by threads of its own, so that no other call has to."""
        token = cancel.Token()
        try:
            return await asyncio.wrap_future(self.submit(token, function, self._patient))
        except asyncio.CancelledError:
            token.cancel()
            raise

    def submit(
        self, token: cancel.Token | None, function: Callable[[], T], pool: ThreadPoolExecutor | None = None
    ) -> Future[T]:
        """Have a thread do work that belongs to a token, or to nobody."""

        def work() -> T:
            with cancel.under(token):
                cancel.check()
                return function()

        return (pool or self._pool).submit(copy_context().run, work)  # what is traced in there belongs to the call

    @contextmanager
    def woken(self) -> Iterator[asyncio.Event]:
        """An event that is set when a call has changed something, while the block lasts."""
        event = asyncio.Event()
        self._sleepers.add(event)
        try:
            yield event
        finally:
            self._sleepers.discard(event)

    def wake(self) -> None:
        """Something has changed. Called in the loop's thread."""
        for event in self._sleepers:
            event.set()

    def leave(self) -> None:
        """Let those go who only listen. Called in the loop's thread."""
        self.leaving = True
        self.wake()

    async def begin(
        self, undo: Callable[[T], object], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `call`, for what makes something. Where the caller has gone when it is there, `undo` takes it away."""
        token = cancel.Token()
        future = self.submit(token, lambda: function(*args, **kwargs))
        waiting = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            token.cancel()
            waiting.add_done_callback(_unwanted)
            future.add_done_callback(lambda done: _undo(done, undo))
            raise
        finally:
            del future, waiting  # an error in there has this frame in its traceback

    def containers(self) -> list[Container]:
        """Every container and sandbox as it really is, newest first. Those under watch need no look."""
        found = []
        for container in self.engine.containers.store.all():
            if self.exits.watches(container):
                found.append(container)
            elif (now := self._settled(container)) is not None:
                found.append(now)
        return found

    def _settled(self, container: Container) -> Container | None:
        """One that can't be settled, as with a network plugin that fails, must not keep the others from being seen."""
        try:
            return settle.settled(self.engine, container, gone_ok=True)
        except OrlopError as error:
            cancel.check()  # nobody waits for the list any more
            log.warning("container %s: %s", container.id[:12], error, extra={"fields": {"container": container.id}})
            return container

    def sandboxes(self) -> list[Container]:
        """Those of them that are sandboxes, made whole."""
        return [c for c in self.containers() if is_sandbox(c) and is_whole(c)]

    def each(self, work: Callable[[], object]) -> Future[Any]:
        """Begin one part of a call's work, as the end of one container of a pod."""
        return self._members.submit(copy_context().run, work)

    async def close(self) -> None:
        """Wait for calls that are under way, and leave the containers to their shims."""
        await self.exits.leave()
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._pool.shutdown()
        self._members.shutdown()
        self._patient.shutdown()
        self.collector.close()


def _unwanted(done: asyncio.Future[Any]) -> None:
    """The caller of what has failed has gone. What is no error of ours is a defect all the same."""
    if not done.cancelled() and (error := done.exception()) is not None and not isinstance(error, OrlopError):
        log.error("a call whose caller has gone failed", exc_info=error)


def _undo(done: Future[T], undo: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())
