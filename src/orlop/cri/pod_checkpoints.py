"""CheckpointPod and RestorePod: all containers of a pod at one moment, in a directory, and a pod of them again.

pod.options                 which containers there are (`metadata.PodOptions`)
pod.dump                    the sandbox's status
devshm-checkpoint.tar       the pod's shared memory
containers/NAME/            what an archive of the container's checkpoint would hold, and
                container.request    the request that it was created by
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers, checkpoints, containers, expectations, handlers, pods, profiles, restores
from orlop.cri.node import Node
from orlop.engine import lifecycle
from orlop.engine.bundle import shm_directory
from orlop.engine.checkpoints import metadata
from orlop.engine.checkpoints.dump import check, dump, write_shared_memory
from orlop.engine.checkpoints.freeze import standing
from orlop.engine.checkpoints.restore import read_shared_memory
from orlop.engine.config import ContainerConfig
from orlop.engine.records import Container
from orlop.engine.start import Started
from orlop.spec import cancel
from orlop.spec.document import encode
from orlop.spec.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError, os_errors
from orlop.sys.tree import remove_tree

_ENGINE = {"org.criu.checkpoint.engine.name": "orlop"}


# --- checkpoint


async def checkpoint(node: Node, request: api.CheckpointPodRequest) -> api.CheckpointPodResponse:
    def work() -> None:
        if not request.pod_sandbox_id:
            raise InvalidArgument("pod_sandbox_id is missing")
        _no_options(request.options)
        sandbox = node.engine.pods.get(request.pod_sandbox_id)
        if not sandbox.running:
            raise FailedPrecondition(f"pod sandbox {sandbox.id[:12]} is not ready")
        chosen = _chosen(node, sandbox, request.container_ids)
        directory = _empty(request.output_path)
        try:
            with checkpoints.within(checkpoints.PATIENCE):
                _write(node, sandbox, chosen, directory)
        except BaseException:
            with os_errors("take away what was written of the checkpoint"):
                for name in os.listdir(directory):
                    remove_tree(directory / name)
            raise

    await node.call_patiently(work)
    return api.CheckpointPodResponse()


def _no_options(options: object) -> None:
    for key in sorted(options):  # type: ignore[call-overload]
        raise InvalidArgument(f"options: {key[:64]!r} is unknown: handler orlop has none")


def _chosen(node: Node, sandbox: Container, identifiers: Sequence[str]) -> dict[str, Container]:
    """The containers by their names."""
    if not identifiers:
        raise InvalidArgument("container_ids is missing")
    found: dict[str, Container] = {}
    for identifier in identifiers:
        container = containers.find(node, identifier)
        if container.config.pod is None or container.config.pod.sandbox != sandbox.id:
            raise InvalidArgument(f"container_ids: {identifier[:64]} is of another pod")
        check(container)
        name = answers.container_request(container).config.metadata.name
        if name in found:
            raise InvalidArgument(f"container_ids: {identifier[:64]} is there twice, or another one of that name")
        found[name] = container
    return found


def _empty(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise InvalidArgument(f"output_path: {text[:128]!r} is no absolute path")
    path = Path(text)
    if not path.is_dir():
        raise NotFound(f"output_path: {text[:128]} is no directory")
    if any(path.iterdir()):
        raise FailedPrecondition(f"output_path: {text[:128]} is not empty")
    return path


def _write(node: Node, sandbox: Container, chosen: dict[str, Container], directory: Path) -> None:
    with standing(node.engine, list(chosen.values())):
        for name, container in chosen.items():
            cancel.check()
            place = directory / metadata.pod_directory(name)
            with os_errors("write the checkpoint"):
                place.mkdir(mode=0o700, parents=True)
            assert container.config.pod is not None
            said = checkpoints.described(node, container) | {metadata.REQUEST: container.config.pod.message}
            dump(node.engine, container, place, said, shared=False)
        if sandbox.config.ipc_mode == "shareable":
            write_shared_memory(shm_directory(node.engine, sandbox.id), directory)
    status = answers.pod_sandbox_status(sandbox)
    named = {"name": status.metadata.name, "namespace": status.metadata.namespace, "uid": status.metadata.uid}
    told = {f"org.criu.checkpoint.pod.{key}": value for key, value in (named | {"id": sandbox.id}).items()}
    listed = metadata.PodOptions(
        containers={name: metadata.pod_directory(name) for name in chosen}, annotations=_ENGINE | told
    )
    with os_errors("write the checkpoint"):
        (directory / metadata.POD_STATUS).write_bytes(encode(answers.plain(status)))
        (directory / metadata.POD).write_bytes(encode(listed))  # the last: with it the checkpoint is whole


# --- restore


async def restore(node: Node, request: api.RestorePodRequest) -> api.RestorePodResponse:
    def make() -> tuple[Started, api.RestorePodResponse]:
        return _restore(node, request)

    def undo(made: tuple[Started, api.RestorePodResponse]) -> None:
        _take_away(node, made[0])

    name = f"restore of {request.config.metadata.name}_{request.config.metadata.uid}"
    message = request.SerializeToString(deterministic=True)
    started, response = await node.flights.join(name, message, make, undo)
    node.exits.watch(started.container, started.client)
    return response


def _restore(node: Node, request: api.RestorePodRequest) -> tuple[Started, api.RestorePodResponse]:
    _no_options(request.options)
    path = request.checkpoint_path
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"checkpoint_path: {path[:128]!r} is no absolute path")
    if not os.path.isfile(os.path.join(path, metadata.POD)):
        raise NotFound(f"checkpoint_path: {path[:128]} holds no checkpoint of a pod")
    if handlers.chosen(node.settings, request.runtime_handler) is not None:
        raise FailedPrecondition(f"runtime_handler: {request.runtime_handler} restores no pods, only orlop's own does")
    directory = Path(path)
    configs = _matched(directory, request.container_configs)
    asked = api.RunPodSandboxRequest(config=request.config, runtime_handler=request.runtime_handler)
    wanted = pods.wanted(node, asked)
    if wanted.pod is not None and wanted.pod.id_maps is not None:
        raise FailedPrecondition("config: a checkpoint can't be restored in a pod with a user namespace")
    _name_is_free(node, wanted)
    started = pods.begin(node, wanted)
    try:
        if started.client is None:
            raise AlreadyExists(f"pod sandbox name {wanted.name} is taken by {started.container.id[:12]}")
        if wanted.ipc_mode == "shareable":
            read_shared_memory(shm_directory(node.engine, started.container.id), directory)
        made = [_create(node, started.container, asked, config, directory) for config in configs]
    except BaseException:
        if started.client is not None:
            with cancel.under(None):
                _take_away(node, started)
        raise
    return started, api.RestorePodResponse(pod_sandbox_id=started.container.id, restored_containers=made)


def _name_is_free(node: Node, wanted: ContainerConfig) -> None:
    try:
        holder = node.engine.containers.store.named(wanted.name)
    except NotFound:
        return
    if holder.state not in (lifecycle.CREATING, lifecycle.REMOVING):
        raise AlreadyExists(f"pod sandbox name {wanted.name} is taken by {holder.id[:12]}")


def _take_away(node: Node, started: Started) -> None:
    try:
        node.engine.pods.remove(started.container)
    except OrlopError:
        pass  # what can't go now goes when somebody looks at it again
    finally:
        if started.client is not None:
            started.client.close()


def _matched(directory: Path, configs: Sequence[api.ContainerConfig]) -> list[api.ContainerConfig]:
    """The configurations, each of which fits a container of the checkpoint, and none is missing."""
    with os_errors("read the checkpoint"):
        there = metadata.parse_pod((directory / metadata.POD).read_bytes()).containers
    names = [config.metadata.name for config in configs]
    if len(set(names)) < len(names):
        raise InvalidArgument("container_configs: a name is there twice")
    for name in sorted(set(names) ^ set(there)):
        why = "is missing" if name in there else "is not in the checkpoint"
        raise InvalidArgument(f"container_configs: container {name[:64]!r} {why}")
    for config in configs:
        with os_errors("read the checkpoint"):
            raw = (directory / there[config.metadata.name] / metadata.REQUEST).read_bytes()
        expectations.check(expectations.parse(raw), config)
    return list(configs)


def _create(
    node: Node, sandbox: Container, pod: api.RunPodSandboxRequest, config: api.ContainerConfig, directory: Path
) -> api.RestoredContainer:
    request = api.CreateContainerRequest(pod_sandbox_id=sandbox.id, config=config, sandbox_config=pod.config)
    source = str(directory / metadata.pod_directory(config.metadata.name))
    found = restores.from_source(node, containers.wanted(node, sandbox, request), source)
    made = node.engine.pods.create_container(profiles.resolved(found, config.mounts))
    return api.RestoredContainer(name=config.metadata.name, container_id=made.id)
