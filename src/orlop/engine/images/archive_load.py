"""Load images from an archive: Docker's format (old and new) or an OCI layout, in a tar."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import msgspec

from orlop.content.layout import CONTAINERD_NAME, REF_NAME
from orlop.engine.images import progress as told
from orlop.engine.images.archive_read import Archive, compression_by_magic, read_archive
from orlop.engine.images.fetch import Documents, wanted_platform
from orlop.engine.images.gc import collect
from orlop.engine.images.progress import Watcher
from orlop.engine.images.pull import record_found, unpack_found
from orlop.engine.images.record import enter
from orlop.metadata.images import ImageRow
from orlop.metadata.leases import CONTENT, Lease, hold
from orlop.spec.digest import Digest
from orlop.spec.document import decode, encode
from orlop.spec.errors import InvalidArgument, OrlopError, Unimplemented
from orlop.spec.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from orlop.spec.reference import parse_reference

if TYPE_CHECKING:
    from orlop.engine.images.images import Images

_LAYER_TYPES = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_MAX_IMAGES = 1000


class _Item(msgspec.Struct, rename="pascal"):
    """One image in manifest.json of a Docker archive."""

    config: str
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


class _Layout(msgspec.Struct, rename="camel"):
    image_layout_version: str


class Loaded(msgspec.Struct, frozen=True):
    """An image found in an archive, and the names that the archive gives it."""

    target: Descriptor
    names: tuple[str, ...]


def load(images: Images, stream: BinaryIO, watcher: Watcher | None, platform: str) -> list[ImageRow]:
    """Take every image out of the archive, unpack and name it. All or nothing: an error leaves no name behind."""
    try:
        with hold(images.database) as lease:
            archive = read_archive(stream, images.content, lease)
            return _load(images, archive, lease, watcher or told.nobody, platform)
    except BaseException:
        collect(images.database, images.content, images.snapshots)
        raise


def _load(images: Images, archive: Archive, lease: Lease, watcher: Watcher, platform: str) -> list[ImageRow]:
    documents = Documents(images.content, lease)
    ready = []
    for loaded in find_images(images, archive, lease):
        what = f"archive: image {loaded.names[0] if loaded.names else loaded.target.digest}"
        found = documents.find(loaded.target, wanted_platform(platform), what, bool(platform), not platform)
        size = unpack_found(images, found, lease, watcher)
        ready.append((loaded, record_found(images, found, size, lease, remote=False)))
    rows = []
    for loaded, record in ready:
        names = loaded.names or (record.target.digest,)
        enter(images.database, images.content, images.namespace, names, record, "load")
        rows += [ImageRow(images.namespace, name, record) for name in names]
    return rows


def find_images(images: Images, archive: Archive, lease: Lease) -> list[Loaded]:
    """The images of an archive. One that is both an OCI layout and Docker's is read as the former, which keeps
    digests as they were."""
    items = _items(archive)
    index = archive.document("index.json")
    if index is not None and archive.document("oci-layout") is not None:
        found = _from_layout(images, archive, index, items, lease)
    elif items:
        found = [_from_item(images, archive, item, lease) for item in items]
    elif archive.document("repositories") is not None:
        raise Unimplemented("archive: has no manifest.json: archives of Docker before 1.10 are not supported")
    else:
        raise InvalidArgument("archive: holds neither manifest.json (Docker) nor index.json and oci-layout (OCI)")
    if not found:
        raise InvalidArgument("archive: holds no image")
    return found


def _items(archive: Archive) -> list[_Item]:
    raw = archive.document("manifest.json")
    items = decode(raw, list[_Item], "archive: manifest.json") if raw is not None else []
    if len(items) > _MAX_IMAGES:
        raise InvalidArgument(f"archive: manifest.json: {len(items)} images are more than the limit of {_MAX_IMAGES}")
    return items


def _from_layout(images: Images, archive: Archive, raw: bytes, items: list[_Item], lease: Lease) -> list[Loaded]:
    layout = decode(archive.document("oci-layout") or b"", _Layout, "archive: oci-layout")
    if layout.image_layout_version.partition(".")[0] != "1":
        raise Unimplemented(f"archive: image layout version {layout.image_layout_version[:20]!r} is not known")
    index = decode(raw, Index, "archive: index.json")
    if len(index.manifests) > _MAX_IMAGES:
        raise InvalidArgument(f"archive: index.json: {len(index.manifests)} images are more than {_MAX_IMAGES}")
    tags = {archive.blob(item.config).digest: item.repo_tags or () for item in items if _is_blob(archive, item.config)}
    named: dict[str, Loaded] = {}
    for child in index.manifests:
        if child.media_type not in INDEX_TYPES | MANIFEST_TYPES:
            continue
        target = msgspec.structs.replace(child, annotations={})
        before = named[child.digest].names if child.digest in named else ()
        names = (*before, *_annotated(child), *_tagged(images, child, tags, lease))
        named[child.digest] = Loaded(target, tuple(dict.fromkeys(names)))
    return list(named.values())


def _is_blob(archive: Archive, path: str) -> bool:
    try:
        archive.blob(path)
    except OrlopError:
        return False
    return True


def _annotated(child: Descriptor) -> tuple[str, ...]:
    """The name in the annotations of an index entry. containerd's is a full one. The OCI's may be anything; only what
    has a colon or a slash is taken for a name, as a word alone is a tag without its repository."""
    full = child.annotations.get(CONTAINERD_NAME, "")
    if full:
        return _names((full,))
    short = child.annotations.get(REF_NAME, "")
    return _names((short,)) if ":" in short or "/" in short else ()


def _tagged(images: Images, child: Descriptor, tags: dict[str, tuple[str, ...]], lease: Lease) -> tuple[str, ...]:
    """Names that manifest.json gives the image with the same configuration."""
    if not tags or child.media_type in INDEX_TYPES:
        return ()
    manifest = Documents(images.content, lease).manifest(child, "archive: manifest")
    return _names(tags.get(manifest.config.digest, ()))


def _names(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Full names; digests in them are left out, as nothing vouches for them."""
    references = [parse_reference(text) for text in texts]
    return tuple(str(msgspec.structs.replace(r, digest="")) for r in references if r.tag)


def _from_item(images: Images, archive: Archive, item: _Item, lease: Lease) -> Loaded:
    """Docker's own description of an image, turned into an OCI manifest of the same layers."""
    layers = []
    for path in item.layers or ():
        blob = archive.blob(path)
        layers.append(Descriptor(media_type=_layer_type(images, blob.digest), digest=blob.digest, size=blob.size))
    manifest = Manifest(
        schema_version=2, media_type=OCI_MANIFEST, config=_config(images, archive, item, lease), layers=tuple(layers)
    )
    return Loaded(_put(images, encode(manifest), OCI_MANIFEST, lease), _names(item.repo_tags or ()))


def _config(images: Images, archive: Archive, item: _Item, lease: Lease) -> Descriptor:
    raw = archive.document(item.config)
    if raw is not None:
        return _put(images, raw, OCI_CONFIG, lease)
    blob = archive.blob(item.config)
    return Descriptor(media_type=OCI_CONFIG, digest=blob.digest, size=blob.size)


def _put(images: Images, raw: bytes, media_type: str, lease: Lease) -> Descriptor:
    lease.add(CONTENT, Digest.of(raw))
    return images.content.put(raw, media_type)


def _layer_type(images: Images, digest: str) -> str:
    with images.content.open(digest) as file:
        compression = compression_by_magic(file.read(6))
    if compression not in _LAYER_TYPES:
        raise Unimplemented(f"archive: layer {digest} is compressed with {compression}")
    return _LAYER_TYPES[compression]
