"""What the engine knows of containers and images, in the interface's messages. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from orlop._stubs.cri import api_pb2 as api
from orlop.cri.requests import signal_name
from orlop.engine import lifecycle
from orlop.engine.images.image import Image
from orlop.engine.records import Container
from orlop.spec.errors import InvalidArgument
from orlop.spec.signals import parse_signal

T = TypeVar("T")
_SIGNALS = {parse_signal(signal_name(each)): cast("api.Signal", each) for each in api.Signal.values() if each}
_STATES = {
    lifecycle.CREATED: api.CONTAINER_CREATED,
    lifecycle.STARTING: api.CONTAINER_CREATED,
    lifecycle.RUNNING: api.CONTAINER_RUNNING,
    lifecycle.PAUSED: api.CONTAINER_RUNNING,
    lifecycle.EXITED: api.CONTAINER_EXITED,
    lifecycle.REMOVING: api.CONTAINER_EXITED,
}


def pieces(found: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """What a streaming list sends, so many objects in one message."""
    return (found[start : start + size] for start in range(0, len(found), size))


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON that Go reads into the interface's types: names as they are, numbers as numbers."""
    return {field.name: _plain(value) for field, value in message.ListFields()}


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return value


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def pod_request(container: Container) -> api.RunPodSandboxRequest:
    """What a sandbox was asked for with."""
    assert container.config.pod is not None
    return api.RunPodSandboxRequest.FromString(container.config.pod.message)


def container_request(container: Container) -> api.CreateContainerRequest:
    """What a container was asked for with."""
    assert container.config.pod is not None
    return api.CreateContainerRequest.FromString(container.config.pod.message)


# --- pods


def sandbox_state(container: Container) -> api.PodSandboxState:
    return api.SANDBOX_READY if container.running else api.SANDBOX_NOTREADY


def pod_sandbox(container: Container) -> api.PodSandbox:
    """As ListPodSandbox has it."""
    request = pod_request(container)
    return api.PodSandbox(
        id=container.id,
        metadata=request.config.metadata,
        state=sandbox_state(container),
        created_at=nanoseconds(container.created),
        labels=request.config.labels,
        annotations=request.config.annotations,
        runtime_handler=request.runtime_handler,
    )


def pod_sandbox_status(container: Container) -> api.PodSandboxStatus:
    request = pod_request(container)
    addresses = container.record.attachment.addresses if container.record.attachment else ()
    plain = [address.partition("/")[0] for address in addresses]
    return api.PodSandboxStatus(
        id=container.id,
        metadata=request.config.metadata,
        state=sandbox_state(container),
        created_at=nanoseconds(container.created),
        network=api.PodSandboxNetworkStatus(
            ip=plain[0] if plain else "", additional_ips=[api.PodIP(ip=address) for address in plain[1:]]
        ),
        linux=api.LinuxPodSandboxStatus(
            namespaces=api.Namespace(options=request.config.linux.security_context.namespace_options)
        ),
        labels=request.config.labels,
        annotations=request.config.annotations,
        runtime_handler=request.runtime_handler,
    )


def sandbox_matches(item: api.PodSandbox, wanted: api.PodSandboxFilter) -> bool:
    if wanted.id and not item.id.startswith(wanted.id):
        return False
    if wanted.HasField("state") and item.state != wanted.state.state:
        return False
    return _labelled(item.labels, wanted.label_selector)


def _labelled(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.items())


# --- containers


def container_state(container: Container) -> api.ContainerState:
    return _STATES.get(container.state, api.CONTAINER_UNKNOWN)


def container_item(container: Container) -> api.Container:
    """As ListContainers has it."""
    request = container_request(container)
    return api.Container(
        id=container.id,
        pod_sandbox_id=request.pod_sandbox_id,
        metadata=request.config.metadata,
        image=request.config.image,
        image_ref=container.record.image_id,
        state=container_state(container),
        created_at=nanoseconds(container.created),
        labels=request.config.labels,
        annotations=request.config.annotations,
        image_id=container.record.image_id,
    )


def container_matches(item: api.Container, wanted: api.ContainerFilter) -> bool:
    if wanted.id and not item.id.startswith(wanted.id):
        return False
    if wanted.HasField("state") and item.state != wanted.state.state:
        return False
    if wanted.pod_sandbox_id and not item.pod_sandbox_id.startswith(wanted.pod_sandbox_id):
        return False
    return _labelled(item.labels, wanted.label_selector)


def container_status(
    container: Container,
    image: Image | None = None,
    user: api.ContainerUser | None = None,
    mounted: Mapping[str, str] | None = None,
) -> api.ContainerStatus:
    """`image` is the container's, while it is there; `user` who its first process began as; `mounted`
    are the IDs of the images that are mounted in it, by what the request calls them."""
    request, record = container_request(container), container.record
    config = request.config
    image_spec = api.ImageSpec()
    image_spec.CopyFrom(config.image)
    if image is not None and image.names:
        image_spec.image = next((name for name in image.names if "@" not in name), image_spec.image)
    reason, message = reason_of(container)
    ended = container.state == lifecycle.EXITED
    return api.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=container_state(container),
        created_at=nanoseconds(container.created),
        started_at=nanoseconds(record.started),
        finished_at=nanoseconds(record.finished) if ended else 0,
        exit_code=record.exit_code if ended else 0,
        image=image_spec,
        image_ref=image_reference(image) if image else record.image_id,
        reason=reason,
        message=message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=[_mount(mount, mounted or {}) for mount in config.mounts],
        log_path=container.config.log.path,
        resources=api.ContainerResources(linux=config.linux.resources),
        image_id=record.image_id,
        user=user,
        stop_signal=config.stop_signal or stop_signal(image),
    )


def stop_signal(image: Image | None) -> api.Signal:
    """The signal that StopContainer begins with where the request names none."""
    return signal_of(image.config.defaults.stop_signal or "TERM") if image is not None else api.SIGNAL_RUNTIME_DEFAULT


def signal_of(text: str) -> api.Signal:
    """The interface's signal for one as images name it (`SIGTERM`, `15`, `RTMIN+3`)."""
    try:
        return _SIGNALS.get(parse_signal(text), api.SIGNAL_RUNTIME_DEFAULT)
    except InvalidArgument:  # which StopContainer says
        return api.SIGNAL_RUNTIME_DEFAULT


def _mount(mount: api.Mount, mounted: Mapping[str, str]) -> api.Mount:
    if (identifier := mounted.get(mount.image.image)) is None:
        return mount
    shown = api.Mount()
    shown.CopyFrom(mount)
    shown.image.image_ref = identifier
    return shown


def reason_of(container: Container) -> tuple[str, str]:
    """One word for how a container ended, as kubelet knows them, and a sentence where there is one."""
    record = container.record
    if container.state != lifecycle.EXITED:
        return "", ""
    if record.oom_killed:
        return "OOMKilled", record.error
    if record.error and not record.started:
        return "StartError", record.error
    return ("Error" if record.exit_code else "Completed"), record.error


# --- images


def image_reference(image: Image) -> str:
    """Repository and digest where known, else the image's ID."""
    return next(iter(digests(image)), image.id)


def digests(image: Image) -> list[str]:
    """`docker.io/library/redis@sha256:...`: the full form, unlike Docker's."""
    found = set()
    for name in image.names:
        repository, at, digest = name.partition("@")
        if at:
            found.add(f"{repository}@{digest}")
        elif ":" in name.rpartition("/")[2] and image.remote:
            found.add(f"{name.rpartition(':')[0]}@{image.digest}")
    return sorted(found)


def disk_size(image: Image) -> int:
    """Bytes that the image takes, all of which are on the image file system: its blobs, and the layers unpacked. It is
    what the kubelet reckons to gain when its garbage collection removes the image. Never 0 (api.proto)."""
    blobs = {each.digest: each.size for each in (image.target, image.manifest, *image.manifests, *image.layers)}
    return image.size + sum(blobs.values())


def image_message(image: Image, pinned: bool = False) -> api.Image:
    user = image.config.defaults.user.partition(":")[0]
    number = api.Int64Value(value=int(user)) if user.isascii() and user.isdigit() and len(user) < 12 else None
    return api.Image(
        id=image.id,
        repo_tags=sorted(name for name in image.names if "@" not in name and not name.startswith("sha256:")),
        repo_digests=digests(image),
        size=disk_size(image),
        uid=number if user else None,
        username="" if number is not None else user,
        spec=api.ImageSpec(image=image.name, annotations=image.labels),
        pinned=pinned,
    )
