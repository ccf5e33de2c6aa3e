"""Images that no builder would make, put into the registry of this process."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from typing import Any

import msgspec

from orlop.distribution.client import Registry as Client
from orlop.registry.server import Registry
from orlop.spec.digest import Digest
from orlop.spec.image import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from orlop.spec.reference import parse_reference


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"x", **more: Any
) -> tuple[Any, bytes]:
    """A tar entry as it is written, with no check of anything."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    for field, value in more.items():
        setattr(info, field, value)
    return info, data


def layer(entries: Iterable[tuple[Any, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data) if info.size else None)
    return buffer.getvalue()


def publish(
    registry: Registry, name: str, tar: bytes, *, config: bytes | None = None, packed: bytes | None = None
) -> str:
    """Push an image of one layer; `config` and `packed` replace what would be right. Its reference."""
    reference = parse_reference(f"{registry.address}/bad/{name}:1")
    packed = gzip.compress(tar, 1, mtime=0) if packed is None else packed
    right = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))]},
    }
    config = msgspec.json.encode(right) if config is None else config
    with Client() as client:
        blobs = []
        for data, kind in ((config, OCI_CONFIG), (packed, OCI_LAYER_GZIP)):
            blobs.append(Descriptor(media_type=kind, digest=str(Digest.of(data)), size=len(data)))
            client.push_blob(reference, blobs[-1], lambda data=data: io.BytesIO(data))
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blobs[0], "layers": blobs[1:]}
        client.push_manifest(reference, msgspec.json.encode(manifest), OCI_MANIFEST)
    return f"{registry.address}/bad/{name}:1"
