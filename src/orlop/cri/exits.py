"""Watches over the ends of containers, so that no process has to be started for each of them.

While the daemon runs it owns the end of every container: their shims tell it, and it records the exit, gives back what
the container held, and says so to whoever listens. If the daemon dies, the shims see its connections end and do all
that themselves (`orlop internal on-exit`).
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from orlop.engine.exit import conclude
from orlop.engine.records import Container
from orlop.engine.steps import reached
from orlop.shim.client import ShimClient
from orlop.spec import cancel
from orlop.spec.errors import OrlopError, Unavailable
from orlop.wire import frames

if TYPE_CHECKING:
    from orlop.cri.node import Node

log = logging.getLogger("orlop.cri.exits")
_WORKERS = 8  # ends that are recorded at once; threads of their own, since calls may wait for long
_PATIENCE = 10.0  # seconds with a plugin that does not give a network back; StopPodSandbox tries again


class Exits:
    """Belongs to the loop's thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="orlop-exit")
        self._clients: dict[str, ShimClient] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def watches(self, container: Container) -> bool:
        """Whether a container that the record says is running is known to: its shim would have told otherwise."""
        return container.running and container.id in self._clients

    def watch(self, container: Container, client: ShimClient | None) -> None:
        """Take over a container that runs. `client` owns its end already.

        A container whose shim has gone meanwhile was taken care of by that shim.
        """
        if client is None:
            return
        if (known := self._clients.get(container.id)) is not None:
            if client is not known:
                client.close()
            return
        try:
            client.send(frames.encode(frames.WAIT))
        except Unavailable:
            client.close()
            return
        self._clients[container.id] = client
        asyncio.get_running_loop().add_reader(client.fileno(), self._readable, container, client)

    def _readable(self, container: Container, client: ShimClient) -> None:
        try:
            ended = client.wait(0)
        except Unavailable:
            ended = None
        else:
            if ended is None:
                return
        asyncio.get_running_loop().remove_reader(client.fileno())
        task = asyncio.create_task(self._conclude(container, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _conclude(self, container: Container, client: ShimClient) -> None:
        """Record the end. Where that fails the shim has it done, as the connection ends without a word."""
        try:
            ended = await asyncio.get_running_loop().run_in_executor(self._pool, self._record, container, client)
            why = "oom" if ended.record.oom_killed else "error" if ended.record.exit_code else "ok"
            self._node.calls.exits[why] += 1
        except OrlopError as error:
            fields = {"container": container.id, "pod": container.config.pod.sandbox if container.config.pod else ""}
            what = "container %s: not all that follows its end could be done: %s"
            log.error(what, container.id[:12], error, extra={"fields": fields})
        except Exception:
            log.exception("container %s: its end could not be recorded", container.id[:12])
        finally:
            self._clients.pop(container.id, None)
            client.close()
            self._node.wake()

    def _record(self, container: Container, client: ShimClient) -> Container:
        with cancel.under(cancel.Token(_PATIENCE)):
            ended = conclude(self._node.engine, container)
        reached("exits.recorded")
        client.done()
        return ended

    async def adopt(self) -> int:
        """Take over what runs without having been started by this daemon; how many containers that are."""
        engine = self._node.engine
        found = await self._node.call(engine.containers.store.all)
        return sum(await asyncio.gather(*(self.take_over(container) for container in found if container.running)))

    async def take_over(self, container: Container) -> bool:
        """Watch a container that somebody else has started; whether its end is this daemon's now."""
        if container.id not in self._clients:
            self.watch(container, await self._node.call(self._connect, container))
        return container.id in self._clients

    def _connect(self, container: Container) -> ShimClient | None:
        try:
            client = ShimClient(self._node.engine.paths.run(container.id))
        except OrlopError:
            return None  # its shim has gone, and records the end, or the next look does
        try:
            client.own()
        except OrlopError:
            client.close()
            return None
        return client

    async def leave(self) -> None:
        """Leave the containers to their shims, once the ends that are being recorded are."""
        loop = asyncio.get_running_loop()
        for client in self._clients.values():
            loop.remove_reader(client.fileno())
        if self._tasks:
            await asyncio.wait(self._tasks)  # each takes its client away
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._pool.shutdown()
