"""Garbage collection: mark what images, containers and leases refer to, remove the rest.

Mark and sweep are one transaction, as is adding to a lease: whoever looks for a blob after adding it to a lease finds
either a blob that stays or none. Trees of snapshots, which take long to remove, are only marked in it; their
directories go afterwards.
"""

from __future__ import annotations

import sqlite3
import time

import msgspec

from orlop.content.store import ContentStore
from orlop.metadata.database import Database
from orlop.metadata.images import drop, every_row
from orlop.metadata.leases import CONTENT, SNAPSHOT, drop_dead, held
from orlop.metadata.snapshots import ACTIVE, COMMITTED, Snapshot, all_snapshots, condemn
from orlop.snapshots.snapshotter import Snapshotter

PARTIAL_LIFETIME = 24 * 3600.0  # seconds that an interrupted download waits for being resumed


class Collected(msgspec.Struct, frozen=True):
    """What a collection removed; `freed` is bytes of blobs and, as far as they were measured, of snapshots."""

    blobs: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    freed: int = 0


def collect(
    database: Database, content: ContentStore, snapshots: Snapshotter, partial_lifetime: float = PARTIAL_LIFETIME
) -> Collected:
    """Remove every blob and snapshot that nothing refers to, and what interrupted operations left behind."""
    snapshots.recover()
    with database.transaction() as connection:
        drop_dead(connection)
        _drop_removed(connection)
        blobs, freed = _sweep_blobs(content, _wanted_blobs(connection))
        every = all_snapshots(connection)
        doomed = unwanted(every, _roots(connection, every))
        condemn(connection, doomed)
    freed += sum(max(snapshot.record.size, 0) for snapshot in doomed)
    if doomed:
        snapshots.finish_removals()
    oldest = time.time() - partial_lifetime
    freed += content.sweep_ingest(lambda _, modified: modified > oldest)
    return Collected(tuple(blobs), tuple(snapshot.key for snapshot in doomed), freed)


def unwanted(snapshots: list[Snapshot], roots: set[str]) -> list[Snapshot]:
    """The snapshots that neither are roots nor lie beneath one (pure). What is being prepared or removed is left to
    `recover`."""
    by_key = {snapshot.key: snapshot for snapshot in snapshots}
    kept: set[str] = set()
    for key in roots:
        while key in by_key and key not in kept:
            kept.add(key)
            key = by_key[key].parent
    # A snapshot in the making keeps its parents: it is not in the way of anyone, and will be active in a moment.
    for snapshot in snapshots:
        key = snapshot.parent if snapshot.state not in (ACTIVE, COMMITTED) else ""
        while key in by_key and key not in kept:
            kept.add(key)
            key = by_key[key].parent
    return [s for s in snapshots if s.key not in kept and s.state in (ACTIVE, COMMITTED)]


def _drop_removed(connection: sqlite3.Connection) -> None:
    """Images that were kept for containers which are gone now."""
    for row in every_row(connection):
        user = "SELECT 1 FROM containers WHERE namespace = ? AND image = ?"
        if row.record.removed and not connection.execute(user, (row.namespace, row.record.config_digest)).fetchone():
            drop(connection, row.namespace, row.name)


def _roots(connection: sqlite3.Connection, snapshots: list[Snapshot]) -> set[str]:
    """Snapshots that are referred to: topmost layers of images, those of containers, which begin with their ID (its
    writable layer, views of images that are mounted in it), and what leases hold."""
    images = {row.record.chain_id for row in every_row(connection)}
    containers = {row[0] for row in connection.execute("SELECT id FROM containers")}
    theirs = {snapshot.key for snapshot in snapshots if snapshot.key.partition("-image-")[0] in containers}
    return images | theirs | held(connection, SNAPSHOT)


def _wanted_blobs(connection: sqlite3.Connection) -> set[str]:
    images = {digest for row in every_row(connection) for digest in row.record.blobs}
    return images | held(connection, CONTENT)


def _sweep_blobs(content: ContentStore, wanted: set[str]) -> tuple[list[str], int]:
    gone, freed = [], 0
    for blob in content.walk():
        if blob.digest not in wanted:
            freed += content.delete(blob.digest)
            gone.append(blob.digest)
    return gone, freed
