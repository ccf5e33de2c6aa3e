"""Enter images in the table and keep index.json, which other tools read, in step with it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

import msgspec

from orlop.content.layout import Named, write_index
from orlop.content.store import ContentStore
from orlop.engine import events
from orlop.engine.images.fetch import Documents, Found
from orlop.engine.images.image import reference_of
from orlop.engine.records import Event
from orlop.metadata.database import Database
from orlop.metadata.images import ImageRecord, ImageRow, drop, every_row, put, select
from orlop.spec.errors import NotFound, OrlopError
from orlop.spec.image import INDEX_TYPES, Descriptor


def record_of(found: Found, size: int, documents: Documents, content: ContentStore, remote: bool) -> ImageRecord:
    """The record of an image that is whole in store and snapshots."""
    manifests, complete, blobs = _children(found, documents, content)
    return ImageRecord(
        target=found.target,
        manifest=found.manifest,
        config_digest=found.config_digest,
        config=found.config,
        layers=tuple(layer.descriptor for layer in found.layers),
        chain_id=found.layers[-1].chain_id if found.layers else "",
        size=size,
        blobs=tuple(dict.fromkeys((*found.documents, *(layer.descriptor.digest for layer in found.layers), *blobs))),
        manifests=manifests,
        complete=complete,
        remote=remote,
        updated=time.time(),
    )


def _children(
    found: Found, documents: Documents, content: ContentStore
) -> tuple[tuple[Descriptor, ...], bool, list[str]]:
    """Of an index: (children that are here whole, whether all are, the digests of their blobs)."""
    if found.target.media_type not in INDEX_TYPES:
        return (), True, []
    whole, blobs, complete = [], [], True
    local = Documents(content, documents.lease)
    try:
        children = local.children(found.target, "index")
    except NotFound:  # an index beneath the index that was of no interest
        children, complete = (found.manifest,), False
    for child in children:
        digests = _blobs_of(local, content, child)
        complete = complete and bool(digests)
        if digests:
            whole.append(child)
            blobs += digests
    return tuple(whole), complete, blobs


def _blobs_of(local: Documents, content: ContentStore, child: Descriptor) -> list[str]:
    """A manifest's digest and all that it points to, or nothing if any of it is missing."""
    if not content.has(child.digest):
        return []
    try:
        manifest = local.manifest(child, "manifest")
    except OrlopError:  # not an image: an artifact of a kind that this store does not read
        return []
    digests = [child.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)]
    return digests if all(content.has(digest) for digest in digests) else []


def enter(
    database: Database, content: ContentStore, namespace: str, names: Iterable[str], record: ImageRecord, action: str
) -> None:
    """Make `names` stand for `record`. An image that thereby loses its last name keeps one by digest, as Docker
    keeps it under <none>. `action` is the event's: pull, load, tag, import, build."""
    record = msgspec.structs.replace(record, removed=False)
    with database.transaction() as connection:
        for name in names:
            _displace(connection, namespace, name, record)
            put(connection, ImageRow(namespace, name, record))
            events.write(connection, namespace, event(action, name, record))
        _forget_nameless(connection, namespace, record.config_digest)
    publish(database, content)


def _displace(connection: sqlite3.Connection, namespace: str, name: str, record: ImageRecord) -> None:
    for old in select(connection, namespace, "name = ?", name):
        if old.record.config_digest == record.config_digest:
            continue
        others = select(connection, namespace, "id = ? AND name != ?", old.record.config_digest, name)
        if not others:
            put(connection, ImageRow(namespace, nameless(name, old.record), old.record))


def nameless(name: str, record: ImageRecord) -> str:
    """What an image without a tag is called in the table: by its repository and digest if it has one."""
    reference = reference_of(name)
    if reference is None or not record.remote:
        return record.target.digest
    return f"{reference.name}@{record.target.digest}"


def _forget_nameless(connection: sqlite3.Connection, namespace: str, identifier: str) -> None:
    """An image that has a name needs none by bare digest."""
    rows = select(connection, namespace, "id = ?", identifier)
    bare = [row.name for row in rows if reference_of(row.name) is None]
    if len(bare) < len(rows):
        for name in bare:
            drop(connection, namespace, name)


def event(action: str, name: str, record: ImageRecord) -> Event:
    """An event about an image."""
    reference = reference_of(name)
    shown = reference.familiar if reference is not None else name
    return Event(type="image", action=action, id=record.config_digest, attributes={"name": shown}, time=time.time())


def publish(database: Database, content: ContentStore) -> None:
    """Write index.json from the table."""

    def named() -> list[Named]:
        with database.transaction() as connection:
            rows = every_row(connection)
        return [Named(row.namespace, row.name, listed(row.record)) for row in rows]

    write_index(content, named)


def listed(record: ImageRecord) -> Descriptor:
    """What index.json says of an image: an index only if all of it is here, as tools walk it to its end."""
    if record.complete:
        return msgspec.structs.replace(record.target, annotations={}, data="", urls=())
    return msgspec.structs.replace(record.manifest, annotations={}, data="", urls=())
