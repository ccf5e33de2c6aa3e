"""index.json of the store's OCI image layout: the names of images, for other tools.

skopeo and umoci find an image by the annotation org.opencontainers.image.ref.name (image-spec, annotations.md);
containerd's importer by io.containerd.image.name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from orlop.content.store import ContentStore
from orlop.spec.document import encode
from orlop.spec.errors import os_errors
from orlop.spec.image import OCI_INDEX, Descriptor, Index
from orlop.sys.files import replace_file
from orlop.sys.lock import locked

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
NAMESPACE = "orlop.namespace"
DEFAULT_NAMESPACE = "default"


class Named(msgspec.Struct, frozen=True):
    """An image name and the descriptor that it stands for."""

    namespace: str
    name: str
    descriptor: Descriptor


def index_of(images: Sequence[Named]) -> Index:
    """The index that names these images. A name can be in it once: of several namespaces the default one wins, and
    the others' images are listed without a reference name."""
    taken: set[str] = set()
    manifests = []
    for image in sorted(images, key=lambda each: (each.namespace != DEFAULT_NAMESPACE, each.namespace, each.name)):
        annotations = {CONTAINERD_NAME: image.name, NAMESPACE: image.namespace}
        if image.name not in taken:
            annotations[REF_NAME] = image.name
            taken.add(image.name)
        manifests.append(msgspec.structs.replace(image.descriptor, annotations=annotations))
    return Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(manifests))


def write_index(store: ContentStore, named: Callable[[], Sequence[Named]]) -> None:
    """Write index.json. `named` is asked under a lock: of two processes the later one writes the later state."""
    store.prepare()
    with os_errors("write index.json"), locked(store.root / "ingest" / ".index.lock"):
        replace_file(store.root / "index.json", encode(index_of(named())))
