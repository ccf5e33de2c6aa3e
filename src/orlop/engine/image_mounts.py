"""Images that are mounted in containers, read-only, as Kubernetes' image volumes are.

Each is a view of the image's layers, made with the container, so that they are kept while it is there. While the
container runs it is mounted beneath its run directory: a bind mount needs a place to come from.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from orlop.engine.config import ContainerConfig, MountRequest
from orlop.engine.records import Container
from orlop.snapshots.detached import detached
from orlop.spec.errors import FailedPrecondition, InvalidArgument, NotFound, from_os, os_errors
from orlop.sys.inroot import open_in_root
from orlop.sys.mounts import MNT_DETACH, UMOUNT_NOFOLLOW, move_mount, umount

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def _requests(config: ContainerConfig) -> Iterator[tuple[int, MountRequest]]:
    return ((number, request) for number, request in enumerate(config.mounts) if request.type == "image")


def _key(identifier: str, number: int) -> str:
    return f"{identifier}-image-{number}"


def prepare(engine: Engine, container: Container) -> None:
    """Hold the images' layers. Raises NotFound for an image or a sub-path that is not there."""
    for number, request in _requests(container.config):
        image = engine.images.resolve(request.source)
        if not image.chain_id:
            raise FailedPrecondition(f"image {request.source[:128]}: has no layers to mount")
        key = _key(container.id, number)
        engine.snapshots.view(key, image.chain_id)
        if request.subpath:
            root = detached(engine.snapshots.mounts(key))
            try:
                os.close(_open(root, request))
            finally:
                os.close(root)


def _open(root: int, request: MountRequest) -> int:
    """What is to be mounted, resolved beneath the image's root whatever links it holds."""
    if request.subpath.startswith("/") or ".." in request.subpath.split("/"):
        raise InvalidArgument(f"image sub-path {request.subpath[:128]!r}: want a relative path without ..")
    try:
        return open_in_root(root, request.subpath or ".", os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"image {request.source[:128]}: has no {request.subpath[:128]!r}") from None
        raise from_os(error, f"open {request.subpath[:128]} of image {request.source[:128]}") from error


def mount(engine: Engine, container: Container, user_namespace: int = -1) -> dict[str, str]:
    """Mount what was prepared, with owners as a user namespace makes them; where each target's files are now."""
    places: dict[str, str] = {}
    for number, request in _requests(container.config):
        directory = engine.paths.run(container.id) / "images" / str(number)
        with os_errors("make the place of an image"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        view = detached(engine.snapshots.mounts(_key(container.id, number)), user_namespace)
        try:
            with os_errors("mount an image"):
                move_mount(view, str(directory))
        finally:
            os.close(view)
        places[request.target] = _place(str(directory), request)
    return places


def _place(directory: str, request: MountRequest) -> str:
    """The real path of the sub-path. It stays what it is, since nobody can write to the image."""
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _open(root, request)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    finally:
        os.close(root)


def unmount(engine: Engine, container: Container) -> None:
    """Take the mounts off the host; a container that still has them keeps them. Idempotent."""
    for number, _ in _requests(container.config):
        try:
            umount(str(engine.paths.run(container.id) / "images" / str(number)), MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted, or never made
                raise from_os(error, "unmount an image") from error


def discard(engine: Engine, container: Container) -> None:
    """Let go of the images' layers. Idempotent."""
    for number, _ in _requests(container.config):
        engine.snapshots.remove(_key(container.id, number))
