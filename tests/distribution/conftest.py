"""A small image in a registry of our own, and a client that waits for nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from orlop.distribution.client import Registry as Client
from orlop.distribution.credentials import Credential, FixedCredentials
from orlop.distribution.hosts import Hosts
from orlop.distribution.session import Retry
from orlop.distribution.transport import Timeouts
from orlop.registry.server import Registry
from orlop.spec.digest import Digest
from orlop.spec.image import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest
from orlop.spec.reference import Reference, parse_reference

CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'


def describe(data: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=str(Digest.of(data)), size=len(data))


class Image(msgspec.Struct, frozen=True):
    layer: bytes
    manifest: bytes

    @property
    def descriptor(self) -> Descriptor:
        return describe(self.manifest, OCI_MANIFEST)

    @property
    def blob(self) -> Descriptor:
        return describe(self.layer, OCI_LAYER)

    def push(self, client: Client, reference: Reference) -> None:
        for data, media_type in ((CONFIG, OCI_CONFIG), (self.layer, OCI_LAYER)):
            client.push_blob(reference, describe(data, media_type), lambda data=data: io.BytesIO(data))
        client.push_manifest(reference, self.manifest, OCI_MANIFEST)


def make_image(layer: bytes) -> Image:
    config, blob = describe(CONFIG, OCI_CONFIG), describe(layer, OCI_LAYER)
    manifest = Manifest(schema_version=2, media_type=OCI_MANIFEST, config=config, layers=(blob,))
    return Image(layer, msgspec.json.encode(manifest))


class Sink:
    """A writer in memory."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    @property
    def offset(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data


@pytest.fixture
def image() -> Image:
    return make_image(os.urandom(300_000))


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(credential: Credential | None = None, certs: Path | None = None, **options: object) -> Client:
        options.setdefault("retry", Retry(attempts=4, sleep=lambda _: None))
        options.setdefault("timeouts", Timeouts(connect=2, read=2))
        hosts = options.pop("hosts", Hosts(directories=(certs or tmp_path / "no-certs.d",)))
        credentials = options.pop("credentials", FixedCredentials(credential))
        made.append(Client(hosts, credentials, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    return make_client()


@pytest.fixture
def reference(registry: Registry, client: Client, image: Image) -> Reference:
    """The image, pushed."""
    named = parse_reference(f"{registry.address}/lib/app:1")
    image.push(client, named)
    registry.seen.clear()
    return named
