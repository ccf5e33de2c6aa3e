"""Types of image-spec 1.1 and of Docker's image manifest v2, schema 2.

Field names are the specification's, in snake case. Absent fields are None or empty, and are left out on encoding.
"""

# No `from __future__ import annotations`: what msgspec decodes into it would have to compile at every start.

import re
from typing import Any

import msgspec

from orlop.spec.digest import Digest
from orlop.spec.document import Document, decode, parse
from orlop.spec.errors import InvalidArgument, Unimplemented
from orlop.spec.platform import Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
# media type of a layer: how it is compressed ("" is a plain tar)
LAYER_COMPRESSION: dict[str, str] = {
    OCI_LAYER: "",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    DOCKER_LAYER: "",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}
MAX_DOCUMENT = 4 << 20  # bytes of a manifest, index or config (distribution-spec, "Pushing Manifests": 4 MiB)
_USUAL_TYPES = INDEX_TYPES | MANIFEST_TYPES | CONFIG_TYPES | LAYER_COMPRESSION.keys()
_MEDIA_TYPE = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """What points to a blob: its media type, digest and size in bytes (image-spec, descriptor.md)."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: str = ""
    artifact_type: str = ""
    platform: Platform | None = None

    def __post_init__(self) -> None:
        Digest(self.digest)
        if self.size < 0:
            raise ValueError("size is negative")
        if self.media_type not in _USUAL_TYPES and not re.fullmatch(_MEDIA_TYPE, self.media_type):
            raise ValueError(f"bad media type {self.media_type[:80]!r}")


class Manifest(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One image for one platform (image-spec, manifest.md)."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.schema_version != 2:
            raise ValueError(f"schemaVersion is {self.schema_version}, want 2")


class Index(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A list of manifests, usually one a platform (image-spec, image-index.md)."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.schema_version != 2:
            raise ValueError(f"schemaVersion is {self.schema_version}, want 2")


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Docker's health check; durations are in nanoseconds."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerDefaults(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True, kw_only=True):
    """`config` of an image: what a container made from it runs by default (image-spec, config.md)."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    args_escaped: bool = False
    shell: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] | None = None


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The layers of an image by the digests of their uncompressed tars, lowest first."""

    type: str
    diff_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.type != "layers":
            raise ValueError(f"rootfs type is {self.type[:40]!r}, want 'layers'")
        for diff_id in self.diff_ids:
            Digest(diff_id)


class History(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Which instruction made a layer; `empty_layer` marks one that made none."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An image's configuration (image-spec, config.md). Its digest is Docker's image ID."""

    created: str | None = None
    author: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    config: ContainerDefaults | None = None
    rootfs: RootFS
    history: tuple[History, ...] | None = None

    @property
    def defaults(self) -> ContainerDefaults:
        return self.config or ContainerDefaults()

    @property
    def platform(self) -> Platform:
        return Platform(
            os=self.os,
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        )


def parse_manifest(raw: bytes, media_type: str, what: str) -> Document[Manifest] | Document[Index]:
    """Read a manifest or an index. `media_type` is what the descriptor or the registry's header called it; it must
    agree with the document's own field (image-spec, manifest.md: a mismatch may be an attempt to confuse)."""
    if len(raw) > MAX_DOCUMENT:
        raise InvalidArgument(f"{what}: {len(raw)} bytes are more than the limit of {MAX_DOCUMENT}")
    media_type = media_type.partition(";")[0].strip()
    own = _own_media_type(raw, what)
    if media_type in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED) or own in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED):
        raise Unimplemented(f"{what}: Docker manifest schema 1 is not supported")
    known = media_type in INDEX_TYPES | MANIFEST_TYPES
    if own and known and own != media_type:
        raise InvalidArgument(f"{what}: $.mediaType says {own[:80]!r} but it was served as {media_type!r}")
    kind = media_type if known else own
    if kind in INDEX_TYPES:
        return parse(raw, Index, what)
    if kind in MANIFEST_TYPES:
        return parse(raw, Manifest, what)
    raise InvalidArgument(f"{what}: {(kind or media_type)[:80]!r} is not an image manifest or index")


def parse_config(raw: bytes, what: str) -> Document[ImageConfig]:
    """Read an image configuration."""
    if len(raw) > MAX_DOCUMENT:
        raise InvalidArgument(f"{what}: {len(raw)} bytes are more than the limit of {MAX_DOCUMENT}")
    return parse(raw, ImageConfig, what)


class _Typed(msgspec.Struct):
    mediaType: str = ""
    manifests: Any = None
    layers: Any = None
    schemaVersion: Any = None


def _own_media_type(raw: bytes, what: str) -> str:
    """The media type a document claims, or the OCI type its shape implies."""
    typed = decode(raw, _Typed, what)
    if typed.manifests is not None and typed.layers is not None:
        raise InvalidArgument(f"{what}: $: has both 'manifests' and 'layers'")
    if typed.schemaVersion == 1:
        return DOCKER_SCHEMA1
    if typed.mediaType:
        return typed.mediaType
    if typed.manifests is not None:
        return OCI_INDEX
    return OCI_MANIFEST if typed.layers is not None else ""
