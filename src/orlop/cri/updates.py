"""The calls that change limits of what is there."""

from __future__ import annotations

import msgspec

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers, cgroups, requests
from orlop.cri.containers import find
from orlop.cri.node import Node
from orlop.engine import lifecycle
from orlop.engine.config import ContainerConfig
from orlop.engine.records import Container
from orlop.engine.update import update
from orlop.spec.errors import FailedPrecondition, InvalidArgument


async def container(node: Node, request: api.UpdateContainerResourcesRequest) -> api.UpdateContainerResourcesResponse:
    def work() -> None:
        if request.HasField("windows"):
            raise InvalidArgument("windows: this is no Windows node")
        found = find(node, request.container_id)
        if found.state not in (lifecycle.CREATED, lifecycle.RUNNING, lifecycle.PAUSED):
            raise FailedPrecondition(f"container {found.id[:12]} is {found.state}: its limits can't change")
        update(node.engine, found, cgroups.counted(_changed(found, request), node.engine.cgroups.controllers))

    await node.call(work)
    return api.UpdateContainerResourcesResponse()


def _changed(container: Container, request: api.UpdateContainerResourcesRequest) -> ContainerConfig:
    """The container's request as if it had asked for the new limits from the beginning."""
    asked = answers.container_request(container)
    resources = asked.config.linux.resources
    merge(resources, request.linux)
    config = container.config
    assert config.pod is not None
    limits = requests.limits(asked.config)
    pod = msgspec.structs.replace(
        config.pod,
        message=asked.SerializeToString(deterministic=True),
        hugepages={limit.page_size: limit.limit for limit in resources.hugepage_limits},
        unified=dict(resources.unified),
    )
    return msgspec.structs.replace(
        config, limits=msgspec.structs.replace(limits, devices=config.limits.devices), pod=pod
    )


def merge(resources: api.LinuxContainerResources, changes: api.LinuxContainerResources) -> None:
    """What is zero or empty in `changes` stays as it is."""
    sizes = {limit.page_size for limit in changes.hugepage_limits}
    kept = [limit for limit in resources.hugepage_limits if limit.page_size not in sizes]
    resources.ClearField("hugepage_limits")
    resources.hugepage_limits.extend(kept)
    resources.MergeFrom(changes)


async def pod(node: Node, request: api.UpdatePodSandboxResourcesRequest) -> api.UpdatePodSandboxResourcesResponse:
    """The kubelet has changed the pod's own group before it tells; what it tells is kept for others to see."""

    def work() -> None:
        if not request.pod_sandbox_id:
            raise InvalidArgument("pod_sandbox_id is missing")
        sandbox = node.engine.pods.get(request.pod_sandbox_id)
        asked = answers.pod_request(sandbox)
        merge(asked.config.linux.overhead, request.overhead)
        merge(asked.config.linux.resources, request.resources)
        assert sandbox.config.pod is not None
        changed = msgspec.structs.replace(sandbox.config.pod, message=asked.SerializeToString(deterministic=True))
        config = msgspec.structs.replace(sandbox.config, pod=changed)
        node.engine.containers.store.reconfigure(sandbox.id, sandbox.name, config)

    await node.call(work)
    return api.UpdatePodSandboxResourcesResponse()
