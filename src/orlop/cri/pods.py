"""The calls on pod sandboxes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import msgspec

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers, cgroups, containers, handlers, profiles, requests
from orlop.cri.details import sandbox_info
from orlop.cri.node import Node
from orlop.engine.config import ContainerConfig
from orlop.engine.records import Container
from orlop.engine.remove import remove as engine_remove
from orlop.engine.start import Started
from orlop.engine.steps import reached
from orlop.spec.errors import InvalidArgument, NotFound


async def run(node: Node, request: api.RunPodSandboxRequest) -> api.RunPodSandboxResponse:
    config = wanted(node, request)

    def make() -> Started:
        return begin(node, config)

    def undo(started: Started) -> None:
        if started.client is not None:  # else it is the answer to an earlier call as well
            engine_remove(node.engine, started.container, force=True, volumes=True)
            started.client.close()

    started = await node.flights.join(config.name, request.SerializeToString(deterministic=True), make, undo)
    reached("exits.started")
    if started.client is not None:
        node.exits.watch(started.container, started.client)
    else:  # it is there already
        await node.exits.take_over(started.container)
    return api.RunPodSandboxResponse(pod_sandbox_id=started.container.id)


def wanted(node: Node, request: api.RunPodSandboxRequest) -> ContainerConfig:
    """The sandbox that is asked for, with whoever runs it."""
    runtime = handlers.chosen(node.settings, request.runtime_handler)
    config = cgroups.driven(requests.sandbox(request, ""), node.settings.cgroup_driver)
    return config if runtime is None else handlers.run_by(config, runtime)


def begin(node: Node, config: ContainerConfig) -> Started:
    """Make and start a sandbox, in the network that pods have now."""
    config = profiles.resolved(config)
    if config.network.mode != "host":
        network = msgspec.structs.replace(config.network, mode=node.network.ready(config))
        config = msgspec.structs.replace(config, network=network)
    return node.engine.pods.run(config)


async def stop(node: Node, request: api.StopPodSandboxRequest) -> api.StopPodSandboxResponse:
    def work() -> None:
        if (sandbox := _gone_is_fine(node, request.pod_sandbox_id)) is not None:
            node.engine.pods.stop(sandbox, node.each)

    await node.call(work)
    return api.StopPodSandboxResponse()


async def remove(node: Node, request: api.RemovePodSandboxRequest) -> api.RemovePodSandboxResponse:
    def work() -> None:
        if (sandbox := _gone_is_fine(node, request.pod_sandbox_id)) is not None:
            node.engine.pods.remove(sandbox, node.each)
            node.collector.after_removal()

    await node.call(work)
    return api.RemovePodSandboxResponse()


def _gone_is_fine(node: Node, identifier: str) -> Container | None:
    if not identifier:
        raise InvalidArgument("pod_sandbox_id is missing")
    try:
        return node.engine.pods.get(identifier)
    except NotFound:
        return None


async def status(node: Node, request: api.PodSandboxStatusRequest) -> api.PodSandboxStatusResponse:
    def work() -> api.PodSandboxStatusResponse:
        if not request.pod_sandbox_id:
            raise InvalidArgument("pod_sandbox_id is missing")
        sandbox = node.engine.pods.get(request.pod_sandbox_id)
        return api.PodSandboxStatusResponse(
            status=answers.pod_sandbox_status(sandbox),
            info=sandbox_info(node.engine, sandbox) if request.verbose else None,
            containers_statuses=[
                containers.full_status(node, container) for container in node.engine.pods.containers(sandbox.id)
            ],
            timestamp=time.time_ns(),
        )

    return await node.call(work)


async def list_all(node: Node, request: api.ListPodSandboxRequest) -> api.ListPodSandboxResponse:
    return api.ListPodSandboxResponse(items=await node.call(_chosen, node, request.filter))


async def stream(node: Node, request: api.StreamPodSandboxesRequest) -> AsyncIterator[api.StreamPodSandboxesResponse]:
    found = await node.call(_chosen, node, request.filter)
    for piece in answers.pieces(found):
        yield api.StreamPodSandboxesResponse(pod_sandboxes=piece)


def _chosen(node: Node, wanted: api.PodSandboxFilter) -> list[api.PodSandbox]:
    items = (answers.pod_sandbox(container) for container in node.sandboxes())
    return [item for item in items if answers.sandbox_matches(item, wanted)]
