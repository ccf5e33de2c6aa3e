"""Makes a container: reserves its name, gives it a writable snapshot and its volumes. No process starts here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from orlop.engine import image_mounts, lifecycle, locks, propagation
from orlop.engine.config import ContainerConfig, MountRequest
from orlop.engine.names import random_id, random_name
from orlop.engine.oci.resources import check_processors
from orlop.engine.oci.spec import validate
from orlop.engine.oci.users import on_host, ranges
from orlop.engine.records import Container, ContainerRecord, VolumeUse, is_sandbox
from orlop.engine.steps import reached
from orlop.spec import cancel
from orlop.spec.errors import AlreadyExists, InvalidArgument, NotFound, OrlopError, os_errors

if TYPE_CHECKING:
    from orlop.engine.engine import Engine
    from orlop.engine.images.image import Image


def create(
    engine: Engine, config: ContainerConfig, pull: str = "missing", progress: Callable[..., None] | None = None
) -> Container:
    """Make a container from `config`; on any error nothing of it is left."""
    validate(config)
    check_processors(config.limits, os.cpu_count() or 0)
    if config.name:
        engine.containers.validate_name(config.name)
    image = None if config.rootfs else engine.images.ensure(config.image, config.platform, pull, progress)
    container = _reserve(engine, config, image)
    reached("create.reserved")
    try:
        with locks.exclusive(engine.paths.lock(container.id)):
            return _furnish(engine, container, image)
    except BaseException:
        from orlop.engine.remove import discard

        try:
            with cancel.under(None):
                discard(engine, container)
        except OrlopError:
            with suppress(NotFound):  # whoever looks next finishes it
                engine.containers.store.change(container.id, "", owner=None)
        raise


def _reserve(engine: Engine, config: ContainerConfig, image: Image | None) -> Container:
    """Enter the container in the database. A made-up name that is taken is made up again."""
    for attempt in range(8):
        name = config.name or random_name() + (str(attempt) if attempt else "")
        container = Container(
            id=random_id(),
            namespace=engine.namespace,
            name=name,
            state=lifecycle.CREATING,
            created=time.time(),
            config=config,
            record=ContainerRecord(
                image_id=image.id if image else "",
                manifest=image.manifest_digest if image else "",
                image_name=config.image,
                owner=locks.this_process(),
            ),
        )
        try:
            engine.containers.store.reserve(container)
            return container
        except AlreadyExists:
            if config.name and not _settle_holder(engine, name):
                raise
    raise AlreadyExists(f'container name "{name}" is already in use')


def _settle_holder(engine: Engine, name: str) -> bool:
    """Whether the name has become free because its holder was the remains of a process that was killed."""
    from orlop.engine import settle

    try:
        return settle.settled(engine, engine.containers.store.find(name), gone_ok=True) is None
    except NotFound:
        return True


def _furnish(engine: Engine, container: Container, image: Image | None) -> Container:
    with os_errors("make container directory"):
        engine.paths.container(container.id).mkdir(mode=0o710, exist_ok=True)
    if image is not None:
        engine.snapshots.prepare(container.id, image.chain_id)
        _hand_over(engine, container)
    reached("create.snapshot")
    if container.config.checkpoint:
        from orlop.engine.checkpoints.restore import furnish

        furnish(engine, container)
    image_mounts.prepare(engine, container)
    uses = _volumes(engine, container, image)
    reached("create.volumes")
    snapshot = container.id if image is not None else ""
    owner = container.record.owner if is_sandbox(container) else None  # whose start belongs to it
    return engine.containers.store.change(
        container.id, "created", "create", snapshot=snapshot, volumes=uses, owner=owner
    )


def _hand_over(engine: Engine, container: Container) -> None:
    """Give the root directory of a container in a user namespace to the root of that: with an overlay, the mount that
    is made of it does so only for what it stands on."""
    uids, gids = ranges(container.config)
    if not uids or not engine.snapshots.stackable:
        return
    directory = engine.snapshots.directory(container.id)
    with os_errors("hand over the root directory"):
        info = os.stat(directory)
        os.chown(directory, on_host(info.st_uid, uids), on_host(info.st_gid, gids))


def _volumes(engine: Engine, container: Container, image: Image | None) -> tuple[VolumeUse, ...]:
    """The volumes asked for, and one for each `VOLUME` of the image that nothing else is mounted on."""
    requests = [m for m in container.config.mounts if m.type == "volume"]
    taken = {_clean(m.target) for m in container.config.mounts}
    for target in (image.config.defaults.volumes if image else None) or {}:
        if _clean(target) not in taken:
            requests.append(MountRequest(type="volume", target=target))
    for request in container.config.mounts:
        if request.type == "bind":
            _check_bind(request)
    if not requests:
        return ()
    with engine.rootfs(container) as root:
        return tuple(_volume(engine, container.id, request, root) for request in requests)


def _volume(engine: Engine, identifier: str, request: MountRequest, root: int) -> VolumeUse:
    from orlop.engine.copyup import fill_volume

    volume = engine.volumes.create(request.source, container=identifier)
    if not request.no_copy:
        fill_volume(root, request.target, engine.volumes.path(volume.name))
    return VolumeUse(
        volume=volume.name, target=request.target, read_only=request.read_only, anonymous=not request.source
    )


def _check_bind(request: MountRequest) -> None:
    if os.path.exists(request.source):
        propagation.check(request)
        return
    if not request.create_source:
        raise InvalidArgument(f"invalid mount config for type bind: bind source path does not exist: {request.source}")
    with os_errors("make bind source"):
        os.makedirs(request.source, mode=0o755, exist_ok=True)
    propagation.check(request)


def _clean(target: str) -> str:
    return "/" + "/".join(part for part in target.split("/") if part not in ("", "."))


def stop_signal_of(engine: Engine, container: Container) -> str:
    """The signal that the image wants to be stopped with; "" where it says nothing."""
    return "" if container.config.rootfs else image_of(engine, container).config.defaults.stop_signal


def image_of(engine: Engine, container: Container) -> Image:
    """The image a container was made from, which garbage collection keeps while the container is there."""
    return engine.images.by_id(container.record.image_id)
