"""GetContainerEvents: what happens to containers and sandboxes, as it happens.

The engine's journal says it, whichever process did it. A subscriber is woken by what this daemon does, and looks by
itself every now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers, containers
from orlop.cri.node import Node
from orlop.engine import events
from orlop.engine.records import Event, is_sandbox
from orlop.spec.errors import NotFound, Unavailable

_LOOK = 0.5  # seconds between looks at what others have done
_TYPES = {
    "create": api.CONTAINER_CREATED_EVENT,
    "start": api.CONTAINER_STARTED_EVENT,
    "die": api.CONTAINER_STOPPED_EVENT,
    "destroy": api.CONTAINER_DELETED_EVENT,
}


async def stream(node: Node, request: api.GetEventsRequest) -> AsyncIterator[api.ContainerEventResponse]:
    """Events from now on, until the daemon ends: a stream without an end would keep that from it."""
    last = await node.call(events.last, node.engine.database)
    known: dict[str, api.PodSandboxStatus] = {}
    while not node.leaving:
        with node.woken() as woken:
            found = await node.call(events.since, node.engine.database, node.engine.namespace, last)
            for number, event in found:
                last = number
                message = await node.call(_message, node, event, known)
                if message is not None:
                    yield message
            if not found:
                try:
                    async with asyncio.timeout(_LOOK):
                        await woken.wait()
                except TimeoutError:
                    continue
    raise Unavailable("the daemon is ending; ask again when it is back")


def _message(node: Node, event: Event, known: dict[str, api.PodSandboxStatus]) -> api.ContainerEventResponse | None:
    """None for what the interface has no word for. `known` keeps how each sandbox was seen last, for what happened in
    one that is gone when it is told."""
    if event.type != "container" or event.action not in _TYPES:
        return None
    message = api.ContainerEventResponse(
        container_id=event.id,
        container_event_type=_TYPES[event.action],
        created_at=answers.nanoseconds(event.time),
    )
    pod = event.attributes.get("sandbox", event.id)
    sandbox = node.engine.containers.store.get(pod)
    if sandbox is not None and is_sandbox(sandbox):
        known[pod] = answers.pod_sandbox_status(sandbox)
        for container in node.engine.pods.containers(sandbox.id):
            try:
                message.containers_statuses.append(containers.full_status(node, container))
            except NotFound:
                continue
    if pod in known:
        message.pod_sandbox_status.CopyFrom(known[pod])
    if (event.id, event.action) == (pod, "destroy"):
        known.pop(pod, None)
    return message
