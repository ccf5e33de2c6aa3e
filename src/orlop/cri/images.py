"""The calls of ImageService."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers
from orlop.cri.node import Node
from orlop.engine.image import Image
from orlop.spec.errors import InvalidArgument, NotFound, os_errors

CHUNK = 500  # objects in one answer of a stream


async def list_all(node: Node, request: api.ListImagesRequest) -> api.ListImagesResponse:
    return api.ListImagesResponse(images=await node.call(_chosen, node, request.filter))


async def stream(node: Node, request: api.StreamImagesRequest) -> AsyncIterator[api.StreamImagesResponse]:
    found = await node.call(_chosen, node, request.filter)
    for start in range(0, len(found), CHUNK):
        yield api.StreamImagesResponse(images=found[start : start + CHUNK])


def _chosen(node: Node, wanted: api.ImageFilter) -> list[api.Image]:
    if wanted.image.image:
        image = _find(node, wanted.image.image)
        return [_message(node, image)] if image is not None else []
    return [_message(node, image) for image in node.engine.images.list()]


def _find(node: Node, text: str) -> Image | None:
    try:
        return node.engine.images.find(text)
    except InvalidArgument:
        return None  # not even a name: no image has it


def _message(node: Node, image: Image) -> api.Image:
    return answers.image_message(image, pinned=not set(image.names).isdisjoint(node.settings.pinned_images))


async def status(node: Node, request: api.ImageStatusRequest) -> api.ImageStatusResponse:
    def work() -> api.ImageStatusResponse:
        if not request.image.image:
            raise InvalidArgument("image.image is missing")
        image = _find(node, request.image.image)
        if image is None:
            return api.ImageStatusResponse()
        return api.ImageStatusResponse(
            image=_message(node, image),
            info={"info": node.engine.images.config_json(image).decode()} if request.verbose else None,
        )

    return await node.call(work)


async def pull(node: Node, request: api.PullImageRequest) -> api.PullImageResponse:
    if not request.image.image:
        raise InvalidArgument("image.image is missing")
    image = await node.call(node.engine.images.pull, request.image.image)
    return api.PullImageResponse(image_ref=image.id)


async def remove(node: Node, request: api.RemoveImageRequest) -> api.RemoveImageResponse:
    """Every name of the image goes. What containers use stays on disk until they are gone."""

    def work() -> None:
        if not request.image.image:
            raise InvalidArgument("image.image is missing")
        image = _find(node, request.image.image)
        if image is None:
            return
        try:
            node.engine.images.remove(image.id, force=True)
        except NotFound:
            return

    await node.call(work)
    return api.RemoveImageResponse()


async def filesystem_info(node: Node, request: api.ImageFsInfoRequest) -> api.ImageFsInfoResponse:
    def work() -> api.ImageFsInfoResponse:
        directory = str(node.engine.paths.root)
        used, inodes = _usage(directory)
        usage = api.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=api.FilesystemIdentifier(mountpoint=directory),
            used_bytes=api.UInt64Value(value=used),
            inodes_used=api.UInt64Value(value=inodes),
        )
        return api.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    return await node.call(work)


def _usage(directory: str) -> tuple[int, int]:
    """Bytes and inodes of a tree."""
    size = inodes = 0
    with os_errors("measure the store"):
        for root, directories, files in os.walk(directory):
            for name in (*directories, *files):
                try:
                    info = os.lstat(os.path.join(root, name))
                except FileNotFoundError:
                    continue
                size += info.st_blocks * 512
                inodes += 1
    return size, inodes
