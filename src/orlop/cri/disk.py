"""What images and containers take on the disk, without a walk through the store for each question.

Layers of images are measured once, when they are unpacked; the sum of the blobs is kept as long as their directory does
not change; what containers have written is measured as `samples` has it.
"""

from __future__ import annotations

import time

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import stats
from orlop.cri.blobs import Use
from orlop.cri.node import Node
from orlop.engine.engine import Engine
from orlop.metadata.snapshots import COMMITTED
from orlop.spec.errors import NotFound, os_errors


def layers(engine: Engine) -> Use:
    """The unpacked layers of all images, each once."""
    rows = engine.database.read(
        "SELECT coalesce(sum(max(json_extract(record, '$.size'), 0)), 0), "
        "coalesce(sum(max(json_extract(record, '$.entries'), 0)), 0) FROM snapshots WHERE state = ?",
        (COMMITTED,),
    )
    return Use(rows[0][0], rows[0][1])


def writable(node: Node) -> Use:
    """What containers and sandboxes have written."""
    now = time.time_ns()
    total = Use()
    for container in node.containers():
        if container.config.rootfs:
            continue
        try:
            used = stats.writable_layer(node, container, now)
        except NotFound:  # it is just being made or removed
            continue
        total += Use(used.used_bytes.value, used.inodes_used.value)
    return total


def filesystems(node: Node) -> api.ImageFsInfoResponse:
    """Images and containers are on one file system. Its name is the directory of the snapshots, as it is in the
    containers' own figures, so that the kubelet sees that they are the same."""
    directory = node.engine.paths.snapshots
    if not directory.is_dir():  # before the first image; the kubelet asks for its file system all the same
        with os_errors("make the directory of snapshots"):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    return api.ImageFsInfoResponse(
        image_filesystems=[_usage(str(directory), node.blobs.use() + layers(node.engine))],
        container_filesystems=[_usage(str(directory), writable(node))],
    )


def _usage(directory: str, use: Use) -> api.FilesystemUsage:
    return api.FilesystemUsage(
        timestamp=time.time_ns(),
        fs_id=api.FilesystemIdentifier(mountpoint=directory),
        used_bytes=api.UInt64Value(value=use.size),
        inodes_used=api.UInt64Value(value=use.inodes),
    )
