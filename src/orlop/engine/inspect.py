"""All that is known of one container, in one value: what `inspect` and `explain` are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.engine.images.image import Image
from orlop.engine.records import Container
from orlop.network.records import Network
from orlop.snapshots.mounts import Mount
from orlop.spec.errors import NotFound, OrlopError
from orlop.spec.runtime import RuntimeSpec

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


class VolumePlace(msgspec.Struct, frozen=True, kw_only=True):
    """A volume in a container: where its files are on the host."""

    name: str
    driver: str
    source: str
    target: str
    read_only: bool


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """A container with all that belongs to it. `spec` is what it was last started from, None before that."""

    container: Container
    image: Image | None
    spec: RuntimeSpec | None
    volumes: tuple[VolumePlace, ...]
    network: Network | None
    snapshotter: str
    root_mounts: tuple[Mount, ...]
    directory: str  # its files that survive a reboot: config.json, hosts, log
    run_directory: str  # its shim's
    log: str  # "" where none is kept


def inspect(engine: Engine, container: Container) -> Details:
    """Look up what belongs to a container. Nothing of it need exist but the record."""
    directory = engine.paths.container(container.id)
    return Details(
        container=container,
        image=_image(engine, container),
        spec=_spec(engine, container),
        volumes=tuple(
            VolumePlace(
                name=use.volume,
                driver="local",
                source=str(engine.volumes.path(use.volume)),
                target=use.target,
                read_only=use.read_only,
            )
            for use in container.record.volumes
        ),
        network=_network(engine, container),
        snapshotter=engine.snapshots.name,
        root_mounts=_mounts(engine, container),
        directory=str(directory),
        run_directory=str(engine.paths.run(container.id)),
        log="" if container.config.log.driver == "none" else str(directory / "log.json"),
    )


def _image(engine: Engine, container: Container) -> Image | None:
    try:
        return engine.images.by_id(container.record.image_id)
    except NotFound:
        return None


def _spec(engine: Engine, container: Container) -> RuntimeSpec | None:
    from orlop.engine.exec import read_spec

    try:
        return read_spec(engine, container)
    except NotFound:
        return None


def _network(engine: Engine, container: Container) -> Network | None:
    attachment = container.record.attachment
    if attachment is None:
        return None
    try:
        return engine.networks.inspect(attachment.network)
    except OrlopError:  # a conflist that was taken away while containers use its network
        return None


def _mounts(engine: Engine, container: Container) -> tuple[Mount, ...]:
    try:
        return engine.snapshots.mounts(container.id)
    except NotFound:
        return ()
