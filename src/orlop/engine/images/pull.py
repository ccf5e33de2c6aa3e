"""Pull: from a reference to an unpacked image with a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.content.ingest import BlobWriter
from orlop.engine.images import progress as told
from orlop.engine.images.fetch import Documents, Found, Source, wanted_platform
from orlop.engine.images.image import Image
from orlop.engine.images.progress import Progress, Watcher
from orlop.engine.images.record import enter, record_of
from orlop.engine.images.unpack import Fetch, Unpacker, plan
from orlop.metadata.images import ImageRecord, ImageRow
from orlop.metadata.leases import CONTENT, Lease, abandoned, hold
from orlop.spec import cancel
from orlop.spec.image import Descriptor
from orlop.spec.reference import Reference

if TYPE_CHECKING:
    from orlop.engine.images.images import Images


def pull(
    images: Images, reference: Reference, platform: str, watcher: Watcher | None, every: bool, source: Source
) -> ImageRow:
    """Pull `reference` from `source`. With `every`, all platforms of an index are brought; one is unpacked."""
    watcher = _until_cancelled(watcher or told.nobody)
    what = f"image {reference.familiar}"
    watcher(Progress(str(reference), told.RESOLVING))
    with hold(images.database) as lease:
        target, raw = source.resolve(reference)
        documents = Documents(images.content, lease, reference, source)
        documents.keep(target, raw, what)
        found = documents.find(target, wanted_platform(platform), what, bool(platform))

        def fetch(descriptor: Descriptor, writer: BlobWriter) -> None:
            source.fetch_blob(reference, descriptor, writer)

        size = unpack_found(images, found, lease, watcher, fetch)
        if every:
            _bring_children(images, documents, found, lease, fetch, what)
        record = record_of(found, size, documents, images.content, remote=True)
        name = str(reference) if not reference.digest else f"{reference.name}@{reference.digest}"
        enter(images.database, images.content, images.namespace, [name], record, "pull")
    if abandoned(images.database):  # layers that a killed pull has unpacked may be as large as an image
        images.collect()
    return ImageRow(images.namespace, name, record)


def _until_cancelled(watcher: Watcher) -> Watcher:
    """A watcher that ends the pull, whichever of its threads is at it, when the caller has gone."""
    if (token := cancel.current()) is None:
        return watcher

    def watch(step: Progress) -> None:
        token.check()
        watcher(step)

    return watch


def unpack_found(images: Images, found: Found, lease: Lease, watcher: Watcher, fetch: Fetch | None = None) -> int:
    """Unpack what was found, bringing missing layers with `fetch`; returns the unpacked bytes."""
    unpacker = Unpacker(images.content, images.snapshots, lease, fetch, watcher)
    return unpacker.run(found.layers, lambda key: images.snapshots.usage(key).size)


def unpack(images: Images, image: Image, watcher: Watcher | None) -> None:
    """Unpack the layers of an image whose blobs are in the store."""
    if not image.chain_id or images.snapshots.exists(image.chain_id):
        return
    with hold(images.database) as lease:
        manifest = Documents(images.content, lease).manifest(image.manifest, f"image {image.name}")
        layers = plan(manifest, image.config, f"image {image.name}")
        unpacker = Unpacker(images.content, images.snapshots, lease, None, watcher or told.nobody)
        unpacker.run(layers, lambda key: images.snapshots.usage(key).size)


def _bring_children(images: Images, documents: Documents, found: Found, lease: Lease, fetch: Fetch, what: str) -> None:
    """Bring what the other manifests of an index point to; nothing of it is unpacked."""
    for child in documents.children(found.target, what):
        manifest = documents.manifest(child, what)
        for descriptor in (manifest.config, *manifest.layers):
            lease.add(CONTENT, descriptor.digest)
            with images.content.writer(descriptor) as writer:
                if not writer.present:
                    fetch(descriptor, writer)
                    writer.commit()


def record_found(images: Images, found: Found, size: int, lease: Lease, remote: bool) -> ImageRecord:
    """The record of an image whose documents and layers are all in the store."""
    return record_of(found, size, Documents(images.content, lease), images.content, remote)
