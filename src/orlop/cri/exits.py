"""Watches over the ends of containers, so that no process has to be started for each of them.

While the daemon runs it owns the end of every container: their shims tell it, and it records the exit, gives back what
the container held, and says so to whoever listens. If the daemon dies, the shims see its connections end and do all
that themselves (`orlop internal on-exit`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from orlop.engine.exit import conclude
from orlop.engine.records import Container
from orlop.shim.client import ShimClient
from orlop.spec import cancel
from orlop.spec.errors import OrlopError, Unavailable
from orlop.wire import frames

if TYPE_CHECKING:
    from orlop.cri.node import Node

log = logging.getLogger("orlop.cri.exits")
_PATIENCE = 10.0  # seconds with a plugin that does not give a network back; StopPodSandbox tries again


class Exits:
    """Belongs to the loop's thread, but for `began`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._clients: dict[str, ShimClient] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def watches(self, container: Container) -> bool:
        """Whether a container that the record says is running is known to: its shim would have told otherwise."""
        return container.running and container.id in self._clients

    def watch(self, container: Container, client: ShimClient | None = None) -> None:
        """Take over a container that runs. `client` owns its end already; without one, one is made.

        A container whose shim has gone meanwhile was taken care of by that shim.
        """
        if (known := self._clients.get(container.id)) is not None:
            if client is not None and client is not known:
                client.close()
            return
        try:
            if client is None:
                client = ShimClient(self._node.engine.paths.run(container.id))
                client.own()
            client.send(frames.encode(frames.WAIT))
        except OrlopError:
            if client is not None:
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
            await self._node.call(self._record, container, client)
        except OrlopError as error:
            log.error("container %s: not all that follows its end could be done: %s", container.id[:12], error)
        finally:
            self._clients.pop(container.id, None)
            client.close()
        self._node.wake()

    def _record(self, container: Container, client: ShimClient) -> None:
        with cancel.under(cancel.Token(_PATIENCE)):
            conclude(self._node.engine, container)
        client.done()

    def adopt(self, containers: list[Container]) -> None:
        """Take over what ran before this daemon did."""
        for container in containers:
            if container.running:
                self.watch(container)

    def close(self) -> None:
        """Leave the containers to their shims."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
