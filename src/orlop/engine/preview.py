"""The launch plan of a container that is not made: everything is computed as for a start, and nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from orlop.engine import groups, lifecycle
from orlop.engine.bundle import preview_bundle
from orlop.engine.config import ContainerConfig
from orlop.engine.images.image import Image
from orlop.engine.names import random_id
from orlop.engine.oci.spec import validate
from orlop.engine.records import Container, ContainerRecord, VolumeUse
from orlop.engine.start import compile_plan
from orlop.runtime.plan import Plan
from orlop.snapshots.detached import detached
from orlop.spec.errors import os_errors

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def preview(
    engine: Engine, config: ContainerConfig, pull: str = "missing", progress: Callable[..., None] | None = None
) -> Plan:
    """The plan that `create` and `start` would carry out. IDs and anonymous volumes are made up."""
    import os

    validate(config)
    if config.name:
        engine.containers.validate_name(config.name)
    image = engine.images.ensure(config.image, config.platform, pull, progress)
    container = _made_up(config, image)
    key = f"plan-{container.id}"
    engine.snapshots.prepare(key, image.chain_id)
    try:
        root = detached(engine.snapshots.mounts(key))
        try:
            bundle = preview_bundle(engine, container, root)
        finally:
            with os_errors("close"):
                os.close(root)
        return compile_plan(engine, container, bundle)
    finally:
        engine.snapshots.remove(key)


def _made_up(config: ContainerConfig, image: Image) -> Container:
    container = Container(
        id=random_id(),
        namespace=image.namespace,
        name=config.name or "preview",
        state=lifecycle.CREATED,
        created=time.time(),
        config=config,
        record=ContainerRecord(image_id=image.id, manifest=image.manifest_digest, volumes=_volumes(config, image)),
    )
    record = msgspec.structs.replace(container.record, cgroup=groups.wanted(container).path)
    return msgspec.structs.replace(container, record=record)


def _volumes(config: ContainerConfig, image: Image) -> tuple[VolumeUse, ...]:
    """The volumes asked for, and those of the image that nothing else is mounted on."""
    taken = {mount.target.rstrip("/") for mount in config.mounts}
    asked = [(mount.source, mount.target, mount.read_only) for mount in config.mounts if mount.type == "volume"]
    asked += [("", target, False) for target in image.config.defaults.volumes or {} if target.rstrip("/") not in taken]
    return tuple(
        VolumeUse(volume=source or random_id(), target=target, read_only=read_only, anonymous=not source)
        for source, target, read_only in asked
    )
