"""The calls of ImageService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import lru_cache

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers
from orlop.cri.collector import PATIENCE
from orlop.cri.credentials import PrivateSource, credential_of
from orlop.cri.disk import filesystems
from orlop.cri.node import Node
from orlop.cri.pinned import Pinned
from orlop.engine.images.image import Image
from orlop.spec.errors import InvalidArgument
from orlop.spec.reference import parse_reference

_HEX_DIGITS = frozenset("0123456789abcdef")


async def list_all(node: Node, request: api.ListImagesRequest) -> api.ListImagesResponse:
    return api.ListImagesResponse(images=await node.call(_chosen, node, request.filter))


async def stream(node: Node, request: api.StreamImagesRequest) -> AsyncIterator[api.StreamImagesResponse]:
    found = await node.call(_chosen, node, request.filter)
    for piece in answers.pieces(found):
        yield api.StreamImagesResponse(images=piece)


def _chosen(node: Node, wanted: api.ImageFilter) -> list[api.Image]:
    if wanted.image.image:
        image = _find(node, wanted.image.image)
        return [_message(node, image)] if image is not None else []
    return [_message(node, image) for image in node.engine.images.list() if not image.removed]


def _find(node: Node, text: str) -> Image | None:
    """By tag, digest or both, ID or the beginning of one. What is only kept for containers is not there any more."""
    try:
        image = node.engine.images.find(text)
    except InvalidArgument:
        if _HEX_DIGITS.issuperset(text):
            raise  # the beginning of several IDs
        return None  # not even a name: no image has it
    return image if image is not None and not image.removed else None


def _message(node: Node, image: Image) -> api.Image:
    return answers.image_message(image, pinned=image in _pinned(node.settings.pinned_images))


@lru_cache(1)
def _pinned(entries: tuple[str, ...]) -> Pinned:
    return Pinned(entries)


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
    # for whichever pod: the same image with the same credentials
    same = api.PullImageRequest(image=request.image, auth=request.auth).SerializeToString(deterministic=True)
    image = await node.flights.join(f"pull of {request.image.image}", same, lambda: _pull(node, request), _keep)
    return api.PullImageResponse(image_ref=image.id)


def _keep(image: Image) -> None:
    """An image that has come though nobody waits for it any more is as good as any."""


def _pull(node: Node, request: api.PullImageRequest) -> Image:
    """With the request's credentials, where it has some. Each caller asks the registry whether it may have the image,
    so that nobody gets by another's credentials what their own would not give; layers are brought once for all."""
    images, name = node.engine.images, request.image.image
    credential = credential_of(request.auth)
    if credential is None:
        return images.pull(name, registry=node.registry)
    source = PrivateSource(request.auth, credential, parse_reference(name), node.hosts)
    try:
        return images.pull(name, registry=source)
    finally:
        source.close()


async def remove(node: Node, request: api.RemoveImageRequest) -> api.RemoveImageResponse:
    """Every name of the image goes, whatever it was called by. What containers use stays on disk until they are gone;
    the rest is given back here, or soon after where that takes long."""

    def work() -> Image | None:
        if not request.image.image:
            raise InvalidArgument("image.image is missing")
        image = _find(node, request.image.image)
        return None if image is None else node.engine.images.release(image.id)

    if await node.call(work) is not None:
        await asyncio.wait({asyncio.wrap_future(node.collector.begin())}, timeout=PATIENCE)
    return api.RemoveImageResponse()


async def filesystem_info(node: Node, request: api.ImageFsInfoRequest) -> api.ImageFsInfoResponse:
    return await node.call(filesystems, node)
