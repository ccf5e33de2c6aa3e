"""Images made in memory, a registry to hold them, and stores to pull them into."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orlop.content.store import ContentStore
from orlop.distribution.client import Registry as Client
from orlop.distribution.session import Retry
from orlop.engine.images.images import Images
from orlop.metadata.database import Database
from orlop.registry.server import Registry
from orlop.snapshots.overlay import OverlaySnapshotter
from orlop.spec.digest import Digest
from orlop.spec.image import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Index, Manifest
from orlop.spec.platform import Platform
from orlop.spec.reference import parse_reference

AMD64 = Platform(os="linux", architecture="amd64")
Tree = dict[str, bytes]


def tar_of(tree: Tree) -> bytes:
    """A layer: path to contents; a path that ends in / is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in tree.items():
            member = tarfile.TarInfo(path.rstrip("/"))
            member.type = tarfile.DIRTYPE if path.endswith("/") else tarfile.REGTYPE
            member.mode = 0o755
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class Sample(msgspec.Struct):
    """An image for one platform, with all its bytes."""

    manifest: Descriptor
    blobs: dict[str, bytes]

    def merged(self, other: Sample) -> dict[str, bytes]:
        return self.blobs | other.blobs


def sample(
    *trees: Tree,
    platform: Platform = AMD64,
    compress: bool = True,
    cmd: tuple[str, ...] = ("sh",),
    diff_ids: tuple[str, ...] | None = None,
) -> Sample:
    blobs: dict[str, bytes] = {}

    def keep(data: bytes, media_type: str) -> Descriptor:
        blobs[Digest.of(data)] = data
        return Descriptor(media_type=media_type, digest=str(Digest.of(data)), size=len(data))

    tars = [tar_of(tree) for tree in trees]
    layers = tuple(
        keep(gzip.compress(tar, mtime=0) if compress else tar, OCI_LAYER_GZIP if compress else OCI_LAYER)
        for tar in tars
    )
    config = {
        "created": "2024-01-02T03:04:05Z",
        "os": platform.os,
        "architecture": platform.architecture,
        "config": {"Cmd": cmd, "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids or [str(Digest.of(tar)) for tar in tars]},
        "history": [{"created_by": f"layer {i}"} for i in range(len(tars))]
        + [{"created_by": "CMD", "empty_layer": True}],
        "x.unknown": {"kept": True},
    }
    manifest = Manifest(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=keep(msgspec.json.encode(config), OCI_CONFIG),
        layers=layers,
    )
    descriptor = keep(msgspec.json.encode(manifest), OCI_MANIFEST)
    return Sample(msgspec.structs.replace(descriptor, platform=platform), blobs)


def index_of(*samples: Sample) -> Sample:
    index = Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(each.manifest for each in samples))
    raw = msgspec.json.encode(index)
    blobs = {digest: data for each in samples for digest, data in each.blobs.items()}
    return Sample(
        Descriptor(media_type=OCI_INDEX, digest=str(Digest.of(raw)), size=len(raw)), {**blobs, Digest.of(raw): raw}
    )


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def publish(registry: Registry) -> Callable[[str, Sample], str]:
    """Put a sample in the registry under a name; returns the full reference."""

    def publish(name: str, image: Sample) -> str:
        text = f"{registry.address}/{name}"
        reference = parse_reference(text)
        with Client() as client:
            documents = [d for d, data in image.blobs.items() if b'"schemaVersion"' in data[:40]]
            for digest, data in image.blobs.items():
                if digest not in documents:
                    descriptor = Descriptor(media_type=OCI_LAYER, digest=digest, size=len(data))
                    client.push_blob(reference, descriptor, lambda data=data: io.BytesIO(data))
            for digest in documents:
                data = image.blobs[digest]
                kind = OCI_INDEX if b'"manifests"' in data else OCI_MANIFEST
                tagged = digest == image.manifest.digest
                target = reference if tagged else msgspec.structs.replace(reference, tag="", digest=digest)
                client.push_manifest(target, data, kind)
        return text

    return publish


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Images]:
    """`Images` over one root; called again it is another process's view of the same."""

    def make(namespace: str = "default", root: str = "root", driver: type[Any] = OverlaySnapshotter) -> Images:
        directory = tmp_path / root
        directory.mkdir(exist_ok=True)
        database = Database(directory / "orlop.db")
        snapshots = driver(directory / "snapshots", database)
        client = Client(retry=Retry(attempts=1))
        return Images(ContentStore(directory / "content"), snapshots, database, namespace, client)

    return make


@pytest.fixture
def images(make_images: Callable[..., Images]) -> Images:
    return make_images()


@pytest.fixture(name="sample")
def sample_fixture() -> Callable[..., Sample]:
    return sample


@pytest.fixture(name="index_of")
def index_of_fixture() -> Callable[..., Sample]:
    return index_of
