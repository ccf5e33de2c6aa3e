"""The calls on containers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers, cdi, cdi_files, cgroups, handlers, profiles, requests, restores
from orlop.cri.details import container_info
from orlop.cri.node import Node
from orlop.engine import lifecycle
from orlop.engine.config import ContainerConfig
from orlop.engine.exec import read_spec
from orlop.engine.records import Container, is_sandbox
from orlop.engine.start import Started
from orlop.engine.steps import reached
from orlop.spec.errors import FailedPrecondition, InvalidArgument, NotFound


async def create(node: Node, request: api.CreateContainerRequest) -> api.CreateContainerResponse:
    def undo(made: tuple[Container, bool]) -> None:
        container, fresh = made
        if fresh:
            node.engine.containers.remove(container.id, force=True, volumes=True)

    metadata = request.config.metadata
    name = f"{metadata.name}_{request.pod_sandbox_id}_{metadata.attempt}"
    message = request.SerializeToString(deterministic=True)
    container, _ = await node.flights.join(name, message, lambda: _create(node, request), undo)
    return api.CreateContainerResponse(container_id=container.id)


def _create(node: Node, request: api.CreateContainerRequest) -> tuple[Container, bool]:
    """The container, and whether it is this call that has made it."""
    if not request.pod_sandbox_id:
        raise InvalidArgument("pod_sandbox_id is missing")
    config = restores.restored(node, wanted(node, node.engine.pods.get(request.pod_sandbox_id), request))
    began = time.time()
    made = node.engine.pods.create_container(profiles.resolved(config, request.config.mounts))
    return made, made.created >= began


def wanted(node: Node, sandbox: Container, request: api.CreateContainerRequest) -> ContainerConfig:
    """The container that is asked for, with devices and whoever runs it."""
    options = request.config.linux.security_context.namespace_options
    target = _target(node, options, sandbox.id) if options.pid == api.TARGET else ""
    config = requests.container(request, answers.pod_request(sandbox), sandbox.id, target)
    config = msgspec.structs.replace(config, cgroup_manager=sandbox.config.cgroup_manager)
    config = cgroups.counted(config, node.engine.cgroups.controllers)
    if devices := cdi.wanted((device.name for device in request.config.CDI_devices), request.config.annotations):
        config = cdi.inject(config, cdi_files.read().edits(devices))
    if sandbox.config.oci_runtime is not None:
        config = handlers.run_by(config, sandbox.config.oci_runtime)
    return config


def _target(node: Node, options: api.NamespaceOption, sandbox: str) -> str:
    """The PID namespace of a container of the same pod, as for `kubectl debug --target`."""
    found = find(node, options.target_id)
    if found.config.pod is None or found.config.pod.sandbox != sandbox:
        raise InvalidArgument(f"namespace_options.target_id: container {found.id[:12]} is in another pod")
    if not found.running:
        raise FailedPrecondition(f"namespace_options.target_id: container {found.id[:12]} is not running")
    return f"container:{found.id}"


def find(node: Node, identifier: str) -> Container:
    """A container, not a sandbox. Raises NotFound."""
    if not identifier:
        raise InvalidArgument("container_id is missing")
    found = node.engine.containers.get(identifier)
    if is_sandbox(found) or found.config.pod is None:
        raise NotFound(f"no such container: {identifier[:128]}")
    return found


async def start(node: Node, request: api.StartContainerRequest) -> api.StartContainerResponse:
    def work() -> Started:
        return node.engine.pods.start_container(find(node, request.container_id))

    def watch(started: Started) -> None:
        loop.call_soon_threadsafe(node.exits.watch, started.container, started.client)

    loop = asyncio.get_running_loop()
    started = await node.begin(watch, work)  # it runs, and stays so, even if the caller has gone
    reached("exits.started")
    node.exits.watch(started.container, started.client)
    return api.StartContainerResponse()


async def stop(node: Node, request: api.StopContainerRequest) -> api.StopContainerResponse:
    def work() -> None:
        if request.timeout < 0:
            raise InvalidArgument(f"timeout: {request.timeout} is below zero")
        if (container := _gone_is_fine(node, request.container_id)) is not None:
            signal = "" if request.timeout else "KILL"
            with suppress(NotFound):  # removed meanwhile
                node.engine.containers.stop(container.id, float(request.timeout), signal)

    await node.call_patiently(work)
    return api.StopContainerResponse()


async def remove(node: Node, request: api.RemoveContainerRequest) -> api.RemoveContainerResponse:
    def work() -> None:
        if (container := _gone_is_fine(node, request.container_id)) is not None:
            with suppress(NotFound):
                node.engine.containers.remove(container.id, force=True, volumes=True)
            node.collector.after_removal()

    await node.call(work)
    return api.RemoveContainerResponse()


def _gone_is_fine(node: Node, identifier: str) -> Container | None:
    try:
        return find(node, identifier)
    except NotFound:
        return None


async def status(node: Node, request: api.ContainerStatusRequest) -> api.ContainerStatusResponse:
    def work() -> api.ContainerStatusResponse:
        container = find(node, request.container_id)
        return api.ContainerStatusResponse(
            status=full_status(node, container),
            info=container_info(node.engine, container) if request.verbose else None,
        )

    return await node.call(work)


def full_status(node: Node, container: Container) -> api.ContainerStatus:
    """A container's status with what its image and its specification say."""
    image = node.engine.images.find(container.record.image_id)
    mounted = {}
    for mount in container.config.mounts:
        if mount.type == "image" and (held := node.engine.images.find(mount.source)) is not None:
            mounted[mount.source] = held.id
    return answers.container_status(container, image, _user(node, container), mounted)


def _user(node: Node, container: Container) -> api.ContainerUser | None:
    if not container.record.started:
        return None
    process = read_spec(node.engine, container).process
    if process is None:
        return None
    user = process.user
    return api.ContainerUser(
        linux=api.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=user.additional_gids)
    )


async def list_all(node: Node, request: api.ListContainersRequest) -> api.ListContainersResponse:
    return api.ListContainersResponse(containers=await node.call(_chosen, node, request.filter))


async def stream(node: Node, request: api.StreamContainersRequest) -> AsyncIterator[api.StreamContainersResponse]:
    found = await node.call(_chosen, node, request.filter)
    for piece in answers.pieces(found):
        yield api.StreamContainersResponse(containers=piece)


def _chosen(node: Node, wanted: api.ContainerFilter) -> list[api.Container]:
    hidden = (lifecycle.CREATING, lifecycle.REMOVING)
    items = [
        answers.container_item(container)
        for container in node.containers()
        if container.config.pod and container.config.pod.sandbox and container.state not in hidden
    ]
    return [item for item in items if answers.container_matches(item, wanted)]


async def reopen_log(node: Node, request: api.ReopenContainerLogRequest) -> api.ReopenContainerLogResponse:
    def work() -> None:
        container = find(node, request.container_id)
        if not container.running:
            raise FailedPrecondition(f"container {container.id[:12]} is not running")
        with node.engine.containers.attach(container.id) as shim:
            shim.reopen_log()

    await node.call(work)
    return api.ReopenContainerLogResponse()
