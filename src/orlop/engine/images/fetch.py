"""From a reference to a whole image: resolve it, choose the platform, bring documents and layers, record it."""

from __future__ import annotations

import os
from typing import Protocol

import msgspec

from orlop.content.ingest import BlobWriter
from orlop.content.store import ContentStore
from orlop.engine.images import platforms
from orlop.engine.images.unpack import Layer, plan
from orlop.metadata.leases import CONTENT, Lease
from orlop.spec.digest import Digest
from orlop.spec.errors import DataLoss, InvalidArgument
from orlop.spec.image import (
    CONFIG_TYPES,
    INDEX_TYPES,
    MAX_DOCUMENT,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    parse_config,
    parse_manifest,
)
from orlop.spec.platform import Platform, host_platform, parse_platform
from orlop.spec.reference import Reference

_MAX_NESTING = 3  # an index may hold indexes


class Source(Protocol):
    """Where images come from: a registry (`distribution`), or an archive."""

    def resolve(self, reference: Reference) -> tuple[Descriptor, bytes]:
        """The manifest or index that `reference` names, and its bytes."""

    def fetch_blob(self, reference: Reference, descriptor: Descriptor, writer: BlobWriter) -> None:
        """Write a blob from `writer.offset` on. Need not commit."""


class Found(msgspec.Struct, frozen=True):
    """An image whose documents are in the store: what is still wanted are its layers."""

    target: Descriptor
    manifest: Descriptor
    config_digest: str
    config: ImageConfig
    layers: tuple[Layer, ...]
    documents: tuple[str, ...]  # digests on the way from the target to the configuration


class Documents:
    """Reads manifests, indexes and configurations from the store, and brings missing ones from a source."""

    def __init__(
        self, content: ContentStore, lease: Lease, reference: Reference | None = None, source: Source | None = None
    ) -> None:
        self._content = content
        self.lease = lease
        self._reference = reference
        self._source = source

    def keep(self, descriptor: Descriptor, raw: bytes, what: str) -> None:
        """Put a document that has been received in the store, if it is what `descriptor` says."""
        if len(raw) != descriptor.size or Digest.of(raw, Digest(descriptor.digest).algorithm) != descriptor.digest:
            raise DataLoss(f"{what}: the {len(raw)} bytes that arrived are not {descriptor.digest}")
        self.lease.add(CONTENT, descriptor.digest)
        with self._content.writer(descriptor) as writer:
            if not writer.present:
                writer.restart()
                writer.write(raw)
                writer.commit()

    def read(self, descriptor: Descriptor, what: str) -> bytes:
        """A document's bytes, from the store or else from the source."""
        if descriptor.size > MAX_DOCUMENT:
            raise InvalidArgument(f"{what}: {descriptor.size} bytes are more than the limit of {MAX_DOCUMENT}")
        self.lease.add(CONTENT, descriptor.digest)
        if self._source is not None and self._reference is not None and not self._content.has(descriptor.digest):
            self._bring(self._source, self._reference, descriptor, what)
        return self._content.read(descriptor.digest)

    def _bring(self, source: Source, reference: Reference, descriptor: Descriptor, what: str) -> None:
        if descriptor.media_type not in CONFIG_TYPES:
            by_digest = msgspec.structs.replace(reference, tag="", digest=descriptor.digest)
            self.keep(descriptor, source.resolve(by_digest)[1], what)
            return
        with self._content.writer(descriptor) as writer:
            if not writer.present:
                source.fetch_blob(reference, descriptor, writer)
                writer.commit()

    def find(
        self, target: Descriptor, wanted: Platform, what: str, asked: bool = False, any_platform: bool = False
    ) -> Found:
        """Follow `target` to the manifest for the platform `wanted`, and read its configuration. `any_platform` takes
        a manifest that is for another one; of an index, a fitting one is wanted all the same."""
        documents = [target.digest]
        descriptor = target
        for _ in range(_MAX_NESTING + 1):
            document = parse_manifest(self.read(descriptor, what), descriptor.media_type, what)
            if isinstance(document.value, Manifest):
                found = self._found(target, descriptor, document.value, what, documents)
                if not any_platform:
                    platforms.check_config(found.config, wanted, what, asked)
                return found
            descriptor = platforms.choose(document.value, wanted, what)
            documents.append(descriptor.digest)
        raise InvalidArgument(f"{what}: indexes are nested more than {_MAX_NESTING} deep")

    def _found(
        self,
        target: Descriptor,
        descriptor: Descriptor,
        manifest: Manifest,
        what: str,
        documents: list[str],
    ) -> Found:
        if manifest.config.media_type not in CONFIG_TYPES:
            raise InvalidArgument(f"{what}: is no container image: its configuration is {manifest.config.media_type!r}")
        config = parse_config(self.read(manifest.config, what), f"{what}: configuration").value
        return Found(
            target=target,
            manifest=msgspec.structs.replace(descriptor, platform=config.platform),
            config_digest=manifest.config.digest,
            config=config,
            layers=plan(manifest, config, what),
            documents=(*documents, manifest.config.digest),
        )

    def children(self, target: Descriptor, what: str) -> tuple[Descriptor, ...]:
        """Every manifest beneath an index, depth first; of a manifest, itself."""
        return tuple(self._children(target, what, 0))

    def _children(self, descriptor: Descriptor, what: str, depth: int) -> list[Descriptor]:
        if descriptor.media_type not in INDEX_TYPES:
            return [descriptor]
        if depth > _MAX_NESTING:
            raise InvalidArgument(f"{what}: indexes are nested more than {_MAX_NESTING} deep")
        value = parse_manifest(self.read(descriptor, what), descriptor.media_type, what).value
        assert isinstance(value, Index)
        return [leaf for child in value.manifests for leaf in self._children(child, what, depth + 1)]

    def manifest(self, descriptor: Descriptor, what: str) -> Manifest:
        """One manifest, from store or source."""
        value = parse_manifest(self.read(descriptor, what), descriptor.media_type, what).value
        if not isinstance(value, Manifest):
            raise InvalidArgument(f"{what}: {descriptor.digest} is an index where a manifest is expected")
        return value


def here() -> Platform:
    """The platform of this machine."""
    return host_platform(os.uname().machine)


def wanted_platform(text: str) -> Platform:
    """The platform that a user asked for, or this machine's."""
    return parse_platform(text, here()) if text else here()
