"""Containers that go on from a checkpoint, where CreateContainer names one in place of an image."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from orlop.cri.node import Node
from orlop.engine.checkpoints import metadata
from orlop.engine.checkpoints.images import is_checkpoint
from orlop.engine.config import ContainerConfig
from orlop.engine.images.image import Image
from orlop.spec.errors import FailedPrecondition, InvalidArgument, NotFound


def restored(node: Node, config: ContainerConfig) -> ContainerConfig:
    """The request to the engine, where its image is the path of an archive, or an image that holds a checkpoint: of the
    image that the checkpoint says, which is pulled where it is not there."""
    source = _source(node, config.image)
    return from_source(node, config, source) if source else config


def from_source(node: Node, config: ContainerConfig, source: str) -> ContainerConfig:
    """The request to the engine for a container that goes on from this archive, directory, or image with this ID."""
    if config.oci_runtime is not None:
        raise FailedPrecondition(f"handler {config.oci_runtime.name}: only orlop's own restores a checkpoint")
    if config.pod is not None and config.pod.id_maps is not None:
        raise FailedPrecondition("a checkpoint can't be restored in a pod with a user namespace")
    from orlop.engine.checkpoints.restore import read  # much, and seldom asked for
    from orlop.runtime import criu

    criu.program()
    said = metadata.parse_config(read(node.engine, source, metadata.CONFIG))
    return msgspec.structs.replace(config, image=_base(node, said).id, checkpoint=source)


def _source(node: Node, image: str) -> str:
    """The archive or the ID of the image that `image` means, or nothing where it is an ordinary one."""
    if image.startswith("/"):
        return image
    found = node.engine.images.find(image)
    if found is None or not is_checkpoint(node.engine, found):
        return ""
    if not node.settings.restore_images:
        raise FailedPrecondition(
            f"image {image[:128]}: holds a checkpoint, which only an administrator may have restored "
            "(cri.restore_images of config.toml)"
        )
    return found.id


def _base(node: Node, said: metadata.Config) -> Image:
    """The image that the container was made from."""
    names = [name for name in (said.rootfs_image, said.rootfs_image_ref, said.rootfs_image_name) if name]
    for name in names:
        with suppress(InvalidArgument):
            if (found := node.engine.images.find(name)) is not None:
                return found
    for name in names[::-1] if "@" not in said.rootfs_image_ref else (said.rootfs_image_ref,):
        if not name.startswith("sha256:"):
            return node.engine.images.pull(name, registry=node.registry)
    raise NotFound(f"{metadata.CONFIG}: image {names[0][:128]} is not here, and has no name to pull it by")
