"""Save images as one archive that is at once an OCI layout and Docker's format, as current Docker writes it.

oci-layout, index.json      read by skopeo (oci-archive:), containerd, podman
manifest.json               read by `docker load`, skopeo (docker-archive:); its paths lead into blobs/
blobs/sha256/<hex>          manifests, configurations and layers, each once
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from orlop.content.layout import CONTAINERD_NAME, REF_NAME
from orlop.content.store import LAYOUT_VERSION
from orlop.engine.images.fetch import Documents
from orlop.engine.images.image import Image, reference_of
from orlop.engine.images.record import listed
from orlop.metadata.leases import CONTENT, Lease, hold
from orlop.spec.digest import Digest
from orlop.spec.document import encode
from orlop.spec.errors import DataLoss, InvalidArgument
from orlop.spec.image import OCI_INDEX, Descriptor, Index, parse_manifest
from orlop.wire import tar
from orlop.wire.tar_encode import encode as encode_header
from orlop.wire.tar_encode import padding

if TYPE_CHECKING:
    from orlop.engine.images.images import Images

_CHUNK = 1 << 20


class _Item(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    repo_tags: tuple[str, ...]
    layers: tuple[str, ...]


def save(images: Images, names: Sequence[str], stream: BinaryIO) -> None:
    """Write the images that `names` mean. One given by name carries that name; one given by ID carries none."""
    if not names:
        raise InvalidArgument("no image to save")
    chosen: dict[str, tuple[Image, list[str]]] = {}
    for text in names:
        image = images.resolve(text)
        tags = chosen.setdefault(image.digest, (image, []))[1]
        if _is_name(text, image) and image.name not in tags:
            tags.append(image.name)
    with hold(images.database) as lease:
        for piece in _pieces(images, list(chosen.values()), lease):
            stream.write(piece)


def _pieces(images: Images, chosen: list[tuple[Image, list[str]]], lease: Lease) -> Iterator[bytes]:
    blobs: dict[str, int] = {}
    for image, _ in chosen:
        for descriptor in _reachable(Documents(images.content, lease), listed_of(images, image)):
            blobs[descriptor.digest] = descriptor.size
    lease.add(CONTENT, *blobs)
    manifests = tuple(entry for image, tags in chosen for entry in _listed(listed_of(images, image), tags))
    index = Index(schema_version=2, media_type=OCI_INDEX, manifests=manifests)
    yield from _file("oci-layout", LAYOUT_VERSION)
    yield from _file("index.json", encode(index))
    yield from _file("manifest.json", encode([_item(image, tags) for image, tags in chosen]))
    yield encode_header(tar.Entry(path=b"blobs", kind=tar.DIRECTORY, mode=0o755))
    for algorithm in sorted({Digest(digest).algorithm for digest in blobs}):
        yield encode_header(tar.Entry(path=f"blobs/{algorithm}".encode(), kind=tar.DIRECTORY, mode=0o755))
    for digest in sorted(blobs):
        yield from _blob(images, digest, blobs[digest])
    yield tar.END_OF_ARCHIVE


def listed_of(images: Images, image: Image) -> Descriptor:
    """What the archive's index says of the image: its index only if all of it is here."""
    (row,) = images.table.by_name(image.name)
    return listed(row.record)


def _reachable(documents: Documents, descriptor: Descriptor) -> Iterator[Descriptor]:
    yield descriptor
    raw = documents.read(descriptor, "image")
    value = parse_manifest(raw, descriptor.media_type, "image").value
    if isinstance(value, Index):
        for child in value.manifests:
            yield from _reachable(documents, child)
    else:
        yield value.config
        yield from value.layers


def _listed(descriptor: Descriptor, tags: list[str]) -> Iterator[Descriptor]:
    """One entry a name. Docker and containerd read the full name in one annotation and the tag in the other."""
    for name in tags:
        reference = reference_of(name)
        assert reference is not None
        annotations = {CONTAINERD_NAME: str(reference), REF_NAME: reference.tag}
        yield msgspec.structs.replace(descriptor, annotations=annotations)
    if not tags:
        yield descriptor


def _item(image: Image, tags: list[str]) -> _Item:
    references = [reference_of(name) for name in tags]
    return _Item(
        config=_path(image.config_digest),
        repo_tags=tuple(reference.familiar for reference in references if reference is not None),
        layers=tuple(_path(layer.digest) for layer in image.layers),
    )


def _is_name(text: str, image: Image) -> bool:
    reference = reference_of(image.name)
    if reference is None or not reference.tag:
        return False
    hexes = text.removeprefix("sha256:")
    return not image.id.removeprefix("sha256:").startswith(hexes) or text in (image.name, reference.familiar)


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _file(path: str, data: bytes) -> Iterator[bytes]:
    yield encode_header(tar.Entry(path=path.encode(), size=len(data), stored=len(data)))
    yield data + padding(len(data))


def _blob(images: Images, digest: str, size: int) -> Iterator[bytes]:
    """A blob, checked as it is read: a save must not spread bytes that have rotted."""
    yield encode_header(tar.Entry(path=_path(digest).encode(), size=size, stored=size))
    hasher, written = Digest(digest).hasher(), 0
    with images.content.open(digest) as file:
        while written < size and (data := file.read(min(_CHUNK, size - written))):
            hasher.update(data)
            written += len(data)
            yield data
    if f"{Digest(digest).algorithm}:{hasher.hexdigest()}" != digest:
        raise DataLoss(f"blob {digest}: the stored bytes do not have this digest; remove it and pull again")
    yield padding(size)
