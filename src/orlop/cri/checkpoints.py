"""The calls on checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers, containers
from orlop.cri.node import Node
from orlop.engine.checkpoints import archive, metadata
from orlop.engine.checkpoints.dump import check, dump
from orlop.engine.records import Container
from orlop.spec import cancel
from orlop.spec.document import encode
from orlop.spec.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    os_errors,
)
from orlop.sys.tree import remove_tree

PATIENCE = 600.0  # seconds that a checkpoint may take where the caller does not say


async def container(node: Node, request: api.CheckpointContainerRequest) -> api.CheckpointContainerResponse:
    """The container runs on: kubelet asks for checkpoints to look into."""

    def work() -> None:
        found = containers.find(node, request.container_id)
        location = _location(request.location)
        if request.timeout < 0:
            raise InvalidArgument(f"timeout: {request.timeout} is below zero")
        check(found)
        with within(float(request.timeout) or PATIENCE), _place(node, found) as directory:
            dump(node.engine, found, directory, described(node, found))
            archive.pack(directory, location)

    await node.call_patiently(work)
    return api.CheckpointContainerResponse()


def _location(text: str) -> Path:
    if not text:
        raise InvalidArgument("location is missing")
    if not text.startswith("/") or text.endswith("/") or "\0" in text:
        raise InvalidArgument(f"location: {text[:128]!r} is no absolute path of a file")
    path = Path(text)
    if os.path.lexists(path):
        raise AlreadyExists(f"location: {text} exists already")
    if not path.parent.is_dir():
        raise NotFound(f"location: {path.parent} is no directory")
    return path


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The work ends with DeadlineExceeded when its time is over, or before with that of the call."""
    token = cancel.Token(seconds, cancel.current())
    try:
        with cancel.under(token):
            yield
    except Aborted as error:
        if token.late:
            raise DeadlineExceeded(f"timeout: the checkpoint was not written within {seconds:g} s") from error
        raise


@contextmanager
def _place(node: Node, container: Container) -> Iterator[Path]:
    """An empty directory to write a checkpoint to, for the time being. It goes with the container, if not before."""
    directory = node.engine.paths.container(container.id) / "dump"
    remove_tree(directory)  # of a call that was killed
    with os_errors("make the directory of the checkpoint"):
        directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        remove_tree(directory)


def described(node: Node, container: Container) -> dict[str, bytes]:
    """What the front adds to a checkpoint: how the container stands, as ContainerStatus tells it."""
    return {metadata.STATUS: encode(answers.plain(containers.full_status(node, container)))}
