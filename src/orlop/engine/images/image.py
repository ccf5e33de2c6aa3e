"""`Image`: an image as the engine's users see it. Frozen; a change in the store is seen by looking it up again."""

from __future__ import annotations

import msgspec

from orlop.metadata.images import ImageRow
from orlop.spec.errors import OrlopError
from orlop.spec.image import Descriptor, ImageConfig
from orlop.spec.platform import Platform
from orlop.spec.reference import Reference, parse_reference


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image in one namespace. `name` is the one it was looked up by; `names` are all of them, in full form.

    `size` is the bytes of its layers unpacked; `created` is RFC 3339 from its configuration, or ""; `updated` is when
    the name came to stand for it, in seconds since the epoch.
    """

    namespace: str
    name: str
    names: tuple[str, ...]
    target: Descriptor
    manifest: Descriptor
    config_digest: str
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    chain_id: str
    size: int
    manifests: tuple[Descriptor, ...]
    complete: bool
    remote: bool
    updated: float
    labels: dict[str, str]
    removed: bool = False  # only kept for the containers that were made from it

    @property
    def id(self) -> str:
        """Docker's image ID: the digest of the configuration."""
        return self.config_digest

    @property
    def short_id(self) -> str:
        return self.config_digest.partition(":")[2][:12]

    @property
    def digest(self) -> str:
        """The digest of the target: of the index, where there is one."""
        return self.target.digest

    @property
    def manifest_digest(self) -> str:
        return self.manifest.digest

    @property
    def created(self) -> str:
        return self.config.created or ""

    @property
    def platform(self) -> Platform:
        return self.config.platform

    @property
    def tags(self) -> tuple[str, ...]:
        """Docker's RepoTags: `redis:alpine`."""
        return tuple(reference.familiar for reference in self._references() if reference.tag)

    @property
    def repository_digests(self) -> tuple[str, ...]:
        """Docker's RepoDigests: `redis@sha256:...`."""
        found = {
            f"{reference.familiar_name}@{reference.digest or self.target.digest}"
            for reference in self._references()
            if reference.digest or self.remote
        }
        return tuple(sorted(found))

    def _references(self) -> list[Reference]:
        return [reference for name in self.names if (reference := reference_of(name)) is not None]


def image_of(row: ImageRow, names: list[str]) -> Image:
    """The image that a row of the table describes."""
    record = row.record
    return Image(
        namespace=row.namespace,
        name=row.name,
        names=tuple(names),
        target=record.target,
        manifest=record.manifest,
        config_digest=record.config_digest,
        config=record.config,
        layers=record.layers,
        chain_id=record.chain_id,
        size=record.size,
        manifests=record.manifests,
        complete=record.complete,
        remote=record.remote,
        updated=record.updated,
        labels=record.labels,
        removed=record.removed,
    )


def reference_of(name: str) -> Reference | None:
    """A name of the table as a reference; None for the bare digest of an image that has no name."""
    if name.startswith(("sha256:", "sha384:", "sha512:")):
        return None
    try:
        return parse_reference(name)
    except OrlopError:
        return None


class HistoryEntry(msgspec.Struct, frozen=True):
    """One instruction of an image's history, as `docker history` shows it. `layer` is the digest of the layer that it
    made, "" if it made none; `size` is that layer's bytes, compressed as stored."""

    created: str
    created_by: str
    comment: str
    empty: bool
    layer: str
    size: int


def history(image: Image) -> tuple[HistoryEntry, ...]:
    """The image's instructions, newest first. Layers that the history does not account for come without one."""
    layers = list(image.layers)
    entries = []
    for item in image.config.history or ():
        layer = None if item.empty_layer or not layers else layers.pop(0)
        entries.append(
            HistoryEntry(
                created=item.created or "",
                created_by=item.created_by,
                comment=item.comment,
                empty=layer is None,
                layer=layer.digest if layer else "",
                size=layer.size if layer else 0,
            )
        )
    entries += [HistoryEntry("", "", "", False, layer.digest, layer.size) for layer in layers]
    return tuple(reversed(entries))
