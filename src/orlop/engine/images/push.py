"""Push: blobs first, then the manifests that point to them, then the name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from orlop.engine.images import progress as told
from orlop.engine.images.fetch import Documents
from orlop.engine.images.image import Image
from orlop.engine.images.progress import Progress, Watcher
from orlop.engine.images.unpack import JOBS
from orlop.metadata.images import put, select
from orlop.metadata.leases import CONTENT, Lease, hold
from orlop.spec.image import Descriptor, Index, parse_manifest
from orlop.spec.reference import Reference, parse_reference

if TYPE_CHECKING:
    from orlop.distribution.client import Registry
    from orlop.engine.images.images import Images

_WORDS = {"exists": told.EXISTS, "mounted": told.EXISTS, "pushed": told.DONE}


def push(images: Images, reference: Reference, watcher: Watcher | None, registry: Registry) -> str:
    """Push the image that `reference` names, to where it says. Returns the digest that the registry has it by.

    An index goes as a whole if all its images are here; otherwise the one that is here goes alone.
    """
    image = images.resolve(str(reference))
    with hold(images.database) as lease:
        lease.add(CONTENT, image.digest, image.manifest_digest, image.config_digest)
        target = image.target if image.complete else image.manifest
        _Push(images, reference, watcher or told.nobody, registry, lease).run(target, _sources(image, reference))
    _remember(images, image, target)
    return target.digest


class _Push:
    def __init__(
        self, images: Images, reference: Reference, watcher: Watcher, registry: Registry, lease: Lease
    ) -> None:
        self._images = images
        self._reference = reference
        self._watcher = watcher
        self._registry = registry
        self._lease = lease
        self._documents = Documents(images.content, lease)

    def run(self, target: Descriptor, mount_from: tuple[str, ...]) -> None:
        what = f"image {self._reference.familiar}"
        manifests = self._documents.children(target, what)
        blobs: dict[str, Descriptor] = {}
        for child in manifests:
            manifest = self._documents.manifest(child, what)
            blobs |= {blob.digest: blob for blob in (*manifest.layers, manifest.config)}
        self._lease.add(CONTENT, *blobs)
        with ThreadPoolExecutor(JOBS, thread_name_prefix="orlop-push") as pool:
            futures = [pool.submit(self._blob, blob, mount_from) for blob in blobs.values()]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self._manifests(target, what, top=True)

    def _blob(self, blob: Descriptor, mount_from: tuple[str, ...]) -> None:
        def progress(digest: str, done: int, total: int, state: str) -> None:
            self._watcher(Progress(digest, _WORDS.get(state, told.UPLOADING), done, total))

        opener = lambda: self._images.content.open(blob.digest)  # noqa: E731
        self._registry.push_blob(self._reference, blob, opener, mount_from=mount_from, progress=progress)

    def _manifests(self, descriptor: Descriptor, what: str, top: bool) -> None:
        """Children before the index that lists them; only the topmost takes the tag."""
        raw = self._documents.read(descriptor, what)
        value = parse_manifest(raw, descriptor.media_type, what).value
        if isinstance(value, Index):
            for child in value.manifests:
                self._manifests(child, what, top=False)
        by_digest = msgspec.structs.replace(self._reference, tag="", digest=descriptor.digest)
        self._registry.push_manifest(self._reference if top else by_digest, raw, descriptor.media_type)


def _sources(image: Image, reference: Reference) -> tuple[str, ...]:
    """Repositories of the same registry that may have the layers: those the image is also called by."""
    others = [parse_reference(name) for name in image.names if not name.startswith("sha")]
    return tuple(sorted({o.path for o in others if o.domain == reference.domain and o.path != reference.path}))


def _remember(images: Images, image: Image, target: Descriptor) -> None:
    """The image has a repository digest from now on."""
    if image.remote or target.digest != image.digest:
        return
    with images.database.transaction() as connection:
        for row in select(connection, images.namespace, "name = ? AND digest = ?", image.name, target.digest):
            put(connection, msgspec.structs.replace(row, record=msgspec.structs.replace(row.record, remote=True)))
