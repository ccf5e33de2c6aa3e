"""The `images` table: what a name in a namespace stands for.

A name is a full reference (`docker.io/library/redis:alpine`), a reference by digest (`docker.io/library/redis@sha256:
...`) where that is all there is, or a bare digest for an image that has no name. `digest` is the target's, which may
be an index; `id` is the digest of the chosen platform's configuration: Docker's image ID.
"""

from __future__ import annotations

import sqlite3

import msgspec

from orlop.metadata.database import Database
from orlop.spec.document import known
from orlop.spec.image import Descriptor, ImageConfig


class ImageRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All that is needed to run an image, so that no blob is read for that."""

    target: Descriptor  # what the name stands for: an index or a manifest
    manifest: Descriptor  # the manifest of the chosen platform; its `platform` is set
    config_digest: str
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    chain_id: str  # the snapshot of the topmost layer; "" for an image without layers
    size: int  # bytes of the layers, unpacked
    blobs: tuple[str, ...]  # every digest that must be kept: target, manifests, configurations, layers
    manifests: tuple[Descriptor, ...] = ()  # of an index: those children that are in the store whole
    complete: bool = True  # whether every child of the index is
    remote: bool = False  # came from, or went to, a registry: has a repository digest
    updated: float = 0  # seconds since the epoch
    labels: dict[str, str] = {}
    removed: bool = False  # it is gone for whoever asks, and kept for the containers that were made from it


class ImageRow(msgspec.Struct, frozen=True):
    """A name and what it stands for."""

    namespace: str
    name: str
    record: ImageRecord


_DECODER = msgspec.json.Decoder(known(ImageRecord))
_COLUMNS = "namespace, name, record"


class ImageTable:
    """Typed access to the names of one namespace."""

    def __init__(self, database: Database, namespace: str) -> None:
        self.database = database
        self.namespace = namespace

    def by_name(self, name: str) -> list[ImageRow]:
        return self._select("name = ?", name)

    def by_digest(self, digest: str) -> list[ImageRow]:
        """Names whose target or ID is `digest`."""
        return self._select("(digest = ? OR id = ?)", digest, digest)

    def by_id(self, identifier: str) -> list[ImageRow]:
        return self._select("id = ?", identifier)

    def by_id_prefix(self, hexes: str, algorithm: str = "sha256") -> list[ImageRow]:
        """Names of the images whose ID begins with these hex digits."""
        return self._select("id >= ? AND id < ?", f"{algorithm}:{hexes}", f"{algorithm}:{hexes}g")

    def all(self) -> list[ImageRow]:
        return self._select("1")

    def nameless(self) -> list[ImageRow]:
        """Those that have only a digest for a name."""
        return self._select("name >= 'sha256:' AND name < 'sha256;'")

    def namespaces(self, name: str) -> list[str]:
        """Every namespace in which something has this name."""
        rows = self.database.read("SELECT namespace FROM images WHERE name = ? ORDER BY namespace", (name,))
        return [row[0] for row in rows]

    def names(self, identifier: str) -> list[str]:
        """Every name of the image with this ID."""
        rows = self.database.read(
            "SELECT name FROM images WHERE namespace = ? AND id = ? ORDER BY name", (self.namespace, identifier)
        )
        return [row[0] for row in rows]

    def elsewhere(self, names: list[str], hexes: str) -> list[tuple[str, int]]:
        """(namespace, matches) of other namespaces that know one of `names`, or an ID that begins with `hexes`."""
        marks = ", ".join("?" * len(names))
        rows = self.database.read(
            f"SELECT namespace, count(DISTINCT id) FROM images WHERE namespace != ? AND "
            f"(name IN ({marks}) OR (? != '' AND id >= ? AND id < ?)) GROUP BY namespace ORDER BY namespace",
            (self.namespace, *names, hexes, f"sha256:{hexes}", f"sha256:{hexes}g"),
        )
        return [(row[0], row[1]) for row in rows]

    def _select(self, where: str, *arguments: str) -> list[ImageRow]:
        rows = self.database.read(
            f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND {where} ORDER BY name", (self.namespace, *arguments)
        )
        return [_row(row) for row in rows]


def put(connection: sqlite3.Connection, row: ImageRow) -> None:
    """Make the name stand for the record, within a transaction of the caller's."""
    record = row.record
    connection.execute(
        "INSERT OR REPLACE INTO images (namespace, name, digest, id, record) VALUES (?, ?, ?, ?, ?)",
        (row.namespace, row.name, record.target.digest, record.config_digest, msgspec.json.encode(record)),
    )


def select(connection: sqlite3.Connection, namespace: str, where: str, *arguments: str) -> list[ImageRow]:
    """Names of a namespace as a transaction of the caller's sees them; `where` is SQL on the table's columns."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND {where} ORDER BY name", (namespace, *arguments)
    )
    return [_row(row) for row in rows]


def drop(connection: sqlite3.Connection, namespace: str, name: str) -> None:
    """Forget a name, within a transaction of the caller's."""
    connection.execute("DELETE FROM images WHERE namespace = ? AND name = ?", (namespace, name))


def every_row(connection: sqlite3.Connection) -> list[ImageRow]:
    """The names of all namespaces."""
    return [_row(row) for row in connection.execute(f"SELECT {_COLUMNS} FROM images ORDER BY namespace, name")]


def _row(row: sqlite3.Row) -> ImageRow:
    namespace, name, record = row
    return ImageRow(namespace, name, _DECODER.decode(record))
