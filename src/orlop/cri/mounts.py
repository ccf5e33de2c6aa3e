"""Mounts as the interface asks for them. Pure."""

from __future__ import annotations

import posixpath

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import userns
from orlop.engine.config import MountRequest
from orlop.spec.errors import InvalidArgument

_PROPAGATION = {
    api.PROPAGATION_PRIVATE: "rprivate",
    api.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    api.PROPAGATION_BIDIRECTIONAL: "rshared",
}
_ELSEWHERE = {  # what has a field of its own
    "ro": "readonly",
    "rw": "readonly",
    "rro": "recursive_read_only",
    "rrw": "recursive_read_only",
    "idmap": "uidMappings",
    "ridmap": "uidMappings",
} | {prefix + name: "propagation" for prefix in ("", "r") for name in ("private", "shared", "slave", "unbindable")}


def mount(asked: api.Mount, where: str) -> MountRequest:
    """`where` is the request's path of it, for messages."""
    if not asked.container_path.startswith("/") or "\0" in asked.container_path:
        raise InvalidArgument(f"{where}.container_path {asked.container_path[:64]!r}: not an absolute path")
    if asked.recursive_read_only and (not asked.readonly or asked.propagation != api.PROPAGATION_PRIVATE):
        raise InvalidArgument(f"{where}.recursive_read_only: needs readonly and private propagation")
    if asked.HasField("image") and asked.image.image:
        return _image(asked, where)
    if asked.image_sub_path:
        raise InvalidArgument(f"{where}.image_sub_path: there is no image")
    if not asked.host_path.startswith("/") or "\0" in asked.host_path:
        raise InvalidArgument(f"{where}.host_path {asked.host_path[:64]!r}: not an absolute path")
    if asked.propagation not in _PROPAGATION:
        raise InvalidArgument(f"{where}.propagation: {asked.propagation} is not known")
    return MountRequest(
        type="bind",
        source=posixpath.normpath(asked.host_path),
        target=asked.container_path,
        read_only=asked.readonly,
        read_only_recursive=asked.recursive_read_only,
        propagation=_PROPAGATION[asked.propagation],
        id_maps=userns.of_mount(asked, where),
        options=_options(asked, where),
        create_source=True,
    )


def _image(asked: api.Mount, where: str) -> MountRequest:
    if asked.host_path:
        raise InvalidArgument(f"{where}: has both an image and a host_path")
    if not asked.readonly:
        raise InvalidArgument(f"{where}.readonly: an image is mounted read-only")
    for field in ("uidMappings", "gidMappings", "propagation"):
        if getattr(asked, field):
            raise InvalidArgument(f"{where}.{field}: is not for an image")
    return MountRequest(
        type="image",
        target=asked.container_path,
        source=asked.image.image,
        subpath=asked.image_sub_path,
        options=_options(asked, where),
    )


def _options(asked: api.Mount, where: str) -> tuple[str, ...]:
    """Which names there are the engine knows; those that have a field of their own must not contradict it."""
    for index, option in enumerate(asked.mount_options):
        if field := _ELSEWHERE.get(option.partition("=")[0]):
            raise InvalidArgument(f"{where}.mount_options[{index}]: use {field} for {option[:64]!r}")
    return tuple(asked.mount_options)
