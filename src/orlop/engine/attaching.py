"""Brings a container that is being started into its network, in two halves: what needs none of its namespaces is done
while the kernel makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.engine.bundle import hosts_text
from orlop.engine.config import NetworkRequest
from orlop.engine.create import image_of
from orlop.engine.records import Container
from orlop.engine.steps import reached
from orlop.network.records import Attachment
from orlop.spec import cancel
from orlop.spec.errors import os_errors
from orlop.sys.files import overwrite

if TYPE_CHECKING:
    from orlop.engine.engine import Engine
    from orlop.network.networks import Prepared


class Attaching:
    """One attachment under way. The record says already that a network may be held; whoever undoes a start that fails
    gives back what was taken. `attachment` is for the record, once the container runs: until then the network's own
    tells what it has."""

    def __init__(self, engine: Engine, container: Container) -> None:
        self._engine = engine
        self._container = container
        self._prepared: Prepared | None = None
        self.attachment: Attachment | None = None

    def begin(self) -> None:
        """Take addresses and ports, and make the network's own side. Of a network of CNI plugins, which do all at
        once, nothing."""
        cancel.check()
        fresh = not self._container.record.finished  # what has never ended, be it in a failed start, has left nothing
        self._prepared = self._engine.networks.prepare(self._container.id, self._request(), fresh)
        if self._prepared is not None:
            self._note(self._prepared.attachment)

    def finish(self, pid: int, netlink: int) -> None:
        """The rest. `pid` is a process in the container's network namespace, `netlink` a NETLINK_ROUTE socket there."""
        cancel.check()
        networks = self._engine.networks
        if self._prepared is not None:
            networks.join(self._prepared, pid, netlink)
        else:
            self._note(networks.attach(self._container.id, self._request(), pid, netlink))
        reached("start.network")

    def _request(self) -> NetworkRequest:
        """The request, with the ports that the image exposes where all are to be published."""
        request = self._container.config.network
        if not request.publish_all:
            return request
        exposed = image_of(self._engine, self._container).config.defaults.exposed_ports or {}
        return msgspec.structs.replace(request, expose=tuple(dict.fromkeys((*request.expose, *exposed))))

    def _note(self, attachment: Attachment) -> None:
        config, identifier = self._container.config, self._container.id
        hosts = hosts_text(config, config.hostname or identifier[:12], attachment)
        with os_errors("write the container's files"):
            overwrite(f"{self._engine.paths.container(identifier)}/hosts", hosts.encode())
        self.attachment = attachment
