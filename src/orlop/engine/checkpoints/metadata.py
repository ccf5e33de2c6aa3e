"""What an archive of a checkpoint holds beside CRIU's images: names and contents that checkpointctl, Podman, CRI-O and
containerd have in common (github.com/checkpoint-restore/checkpointctl, lib/metadata.go). Pure.

    config.dump        whose checkpoint it is, and of which image (`Config`)
    spec.dump          the runtime specification that the container was started from
    status.dump        what the front says of the container
    checkpoint/        CRIU's images, with descriptors.json beside them
    rootfs-diff.tar    what the container has changed in its root, as a layer of an image
    deleted.files      the paths of those changes that are removals, as a list
    devshm-checkpoint.tar   what was in the shared memory of its pod
    container.log      its log until then
    dump.log, stats-dump    what CRIU said
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from orlop.layers.whiteouts import OPAQUE, WHITEOUT
from orlop.spec.document import decode
from orlop.spec.errors import InvalidArgument

CONFIG, SPEC, STATUS = "config.dump", "spec.dump", "status.dump"
IMAGES, ROOTFS, DELETED = "checkpoint", "rootfs-diff.tar", "deleted.files"
SHM, LOG, DUMP_LOG, RESTORE_LOG, STATS = (
    "devshm-checkpoint.tar",
    "container.log",
    "dump.log",
    "restore.log",
    "stats-dump",
)
POD, POD_STATUS, REQUEST = "pod.options", "pod.dump", "container.request"
_VERSION = 1  # of a pod's checkpoint
ANNOTATION = "org.criu.checkpoint.container.name"  # of an image whose root is the contents of such an archive
_NEVER = "0001-01-01T00:00:00Z"  # as Go writes a time that is none


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """config.dump. `rootfs_image_name` is what the user called the image, `rootfs_image_ref` a name with its digest."""

    id: str
    name: str
    rootfs_image: str = msgspec.field(name="rootfsImage", default="")
    rootfs_image_ref: str = msgspec.field(name="rootfsImageRef", default="")
    rootfs_image_name: str = msgspec.field(name="rootfsImageName", default="")
    runtime: str = "orlop"
    created: str = msgspec.field(name="createdTime", default=_NEVER)
    checkpointed: str = msgspec.field(name="checkpointedTime", default=_NEVER)
    restored_at: str = msgspec.field(name="restoredTime", default=_NEVER)
    restored: bool = False


def parse_config(raw: bytes) -> Config:
    """Raises InvalidArgument, also where it does not say which image the container was made from."""
    found = decode(raw, Config, CONFIG)
    if not (found.rootfs_image_ref or found.rootfs_image_name or found.rootfs_image):
        raise InvalidArgument(f"{CONFIG}: names no image")
    return found


class PodOptions(msgspec.Struct, frozen=True, kw_only=True):
    """pod.options: the directories of a pod's containers by the containers' names."""

    version: int = _VERSION
    containers: dict[str, str] = {}
    annotations: dict[str, str] = {}


def parse_pod(raw: bytes) -> PodOptions:
    """Raises InvalidArgument, also for a directory that is none of those which this version writes."""
    found = decode(raw, PodOptions, POD)
    if found.version != _VERSION:
        raise InvalidArgument(f"{POD}: version {found.version} is not known, only {_VERSION}")
    if not found.containers:
        raise InvalidArgument(f"{POD}: holds no container")
    for name, directory in found.containers.items():
        if directory != pod_directory(name) or "/" in name or name in ("", ".", ".."):
            raise InvalidArgument(f"{POD}: container {name[:64]!r}: {directory[:64]!r} is no directory of it")
    return found


def pod_directory(name: str) -> str:
    """Where the checkpoint of a pod has that of a container."""
    return f"containers/{name}"


def moment(seconds: float) -> str:
    """RFC 3339 in UTC, with nanoseconds."""
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1e9):09}Z"


def removals(paths: Iterable[bytes]) -> list[str]:
    """What of the paths in a layer stands for a removal, as absolute paths. A directory that is new through and
    through, of which the layer says that nothing below it is left, counts as none."""
    found = []
    for path in paths:
        above, slash, name = path.rpartition(b"/")
        if name != OPAQUE and name.startswith(WHITEOUT):
            removed = above + slash + name[len(WHITEOUT) :]
            found.append("/" + removed.decode("utf-8", "replace"))  # the layer itself has it byte for byte
    return found


def parse_removals(raw: bytes) -> tuple[bytes, ...]:
    """The paths of a deleted.files without leading slashes. Raises InvalidArgument for one that leads elsewhere."""
    found = []
    for text in decode(raw, list[str], DELETED):
        path = text.strip("/")
        if not path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise InvalidArgument(f"{DELETED}: {text[:80]!r} is no path")
        found.append(path.encode())
    return tuple(found)


def whiteout(path: bytes) -> bytes:
    """How a layer says that a path is gone."""
    above, slash, name = path.rpartition(b"/")
    return above + slash + WHITEOUT + name
