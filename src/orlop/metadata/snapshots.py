"""The `snapshots` table: which snapshots there are, what they stand on and what state they are in.

    preparing   entered; its directories may not be there yet
    active      writable (or a read-only view)
    committed   finished; others may stand on it
    removing    no one's any more; its key has become `removing-<number>`, its directories may still be there

A row is written before the directories are made and deleted after they are gone, so that no crash leaves a directory
that no row knows.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

import msgspec

from orlop.metadata.database import Database
from orlop.spec.document import known
from orlop.spec.errors import AlreadyExists, FailedPrecondition, NotFound

PREPARING, ACTIVE, COMMITTED, REMOVING = "preparing", "active", "committed", "removing"
_COLUMNS = "key, number, parent, state, record"
_CHAIN = """
    WITH RECURSIVE chain AS (
        SELECT 0 AS depth, key, number, parent, state, record FROM snapshots WHERE key = ?
        UNION ALL
        SELECT chain.depth + 1, s.key, s.number, s.parent, s.state, s.record
        FROM snapshots AS s JOIN chain ON s.key = chain.parent WHERE chain.depth < 500
    ) SELECT key, number, parent, state, record FROM chain ORDER BY depth
"""


class SnapshotRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered beside the columns. `size` in bytes and `entries` are this snapshot's own, without its
    parents', known once it is committed; `created` is seconds since the epoch."""

    created: float = 0
    read_only: bool = False
    size: int = -1
    entries: int = -1
    labels: dict[str, str] = {}


class Snapshot(msgspec.Struct, frozen=True):
    """One snapshot. `number` names its directory; `parent` is "" at the bottom."""

    key: str
    number: int
    parent: str
    state: str
    record: SnapshotRecord

    @property
    def kind(self) -> str:
        """containerd's word for it: active, view or committed."""
        return "view" if self.record.read_only and self.state != COMMITTED else self.state


_DECODER = msgspec.json.Decoder(known(SnapshotRecord))


class SnapshotTable:
    """Typed access. Every method is one transaction or one query."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def find(self, key: str) -> Snapshot | None:
        rows = self.database.read(f"SELECT {_COLUMNS} FROM snapshots WHERE key = ?", (key,))
        return _snapshot(rows[0]) if rows else None

    def get(self, key: str) -> Snapshot:
        found = self.find(key)
        if found is None:
            raise NotFound(f"snapshot {key}: does not exist")
        return found

    def chain(self, key: str) -> list[Snapshot]:
        """The snapshot and what it stands on, from the top down."""
        rows = self.database.read(_CHAIN, (key,))
        if not rows:
            raise NotFound(f"snapshot {key}: does not exist")
        return [_snapshot(row) for row in rows]

    def all(self, state: str = "") -> list[Snapshot]:
        where, arguments = (" WHERE state = ?", (state,)) if state else ("", ())
        rows = self.database.read(f"SELECT {_COLUMNS} FROM snapshots{where} ORDER BY number", arguments)
        return [_snapshot(row) for row in rows]

    def reserve(self, key: str, parent: str, record: SnapshotRecord) -> Snapshot:
        """Enter a new snapshot in state `preparing`, with a number of its own."""
        record = msgspec.structs.replace(record, created=record.created or time.time())
        with self.database.transaction() as connection:
            if connection.execute("SELECT 1 FROM snapshots WHERE key = ?", (key,)).fetchone():
                raise AlreadyExists(f"snapshot {key}: already exists")
            if parent:
                _require_committed(connection, parent)
            number = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM snapshots").fetchone()[0]
            connection.execute(
                f"INSERT INTO snapshots ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
                (key, number, parent or None, PREPARING, msgspec.json.encode(record)),
            )
        return Snapshot(key, number, parent, PREPARING, record)

    def activate(self, snapshot: Snapshot) -> Snapshot:
        """`preparing` becomes `active`."""
        with self.database.transaction() as connection:
            changed = connection.execute(
                "UPDATE snapshots SET state = ? WHERE key = ? AND number = ? AND state = ?",
                (ACTIVE, snapshot.key, snapshot.number, PREPARING),
            )
            if changed.rowcount != 1:
                raise FailedPrecondition(f"snapshot {snapshot.key}: was removed while it was being prepared")
        return msgspec.structs.replace(snapshot, state=ACTIVE)

    def commit(self, name: str, key: str, parent: str, size: int, entries: int) -> Snapshot:
        """`active` becomes `committed` under the key `name`, standing on `parent`."""
        with self.database.transaction() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM snapshots WHERE key = ?", (key,)).fetchone()
            if row is None:
                raise NotFound(f"snapshot {key}: does not exist")
            old = _snapshot(row)
            if old.state != ACTIVE or old.record.read_only:
                raise FailedPrecondition(f"snapshot {key}: is {old.kind}, only an active one can be committed")
            if connection.execute("SELECT 1 FROM snapshots WHERE key = ?", (name,)).fetchone():
                raise AlreadyExists(f"snapshot {name}: already exists")
            if parent:
                _require_committed(connection, parent)
            record = msgspec.structs.replace(old.record, size=size, entries=entries)
            connection.execute(
                "UPDATE snapshots SET key = ?, state = ?, parent = ?, record = ? WHERE key = ?",
                (name, COMMITTED, parent or None, msgspec.json.encode(record), key),
            )
        return Snapshot(name, old.number, parent, COMMITTED, record)

    def condemn(self, key: str) -> Snapshot | None:
        """Take the snapshot's name away and mark it `removing`; None if there is none. One that others stand on is
        `FailedPrecondition`."""
        with self.database.transaction() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM snapshots WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            child = connection.execute("SELECT key FROM snapshots WHERE parent = ?", (key,)).fetchone()
            if child is not None:
                raise FailedPrecondition(f"snapshot {key}: {child[0]} stands on it")
            return condemn(connection, [_snapshot(row)])[0]

    def forget(self, number: int) -> None:
        """Delete the row of a snapshot whose directories are gone."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM snapshots WHERE number = ? AND state IN (?, ?)", (number, *_UNFINISHED))


_UNFINISHED = (PREPARING, REMOVING)


def condemn(connection: sqlite3.Connection, snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """Mark snapshots `removing` within a transaction of the caller's, who knows that nothing stands on them."""
    condemned = []
    for snapshot in snapshots:
        key = f"removing-{snapshot.number}"
        connection.execute(
            "UPDATE snapshots SET key = ?, state = ?, parent = NULL WHERE number = ?", (key, REMOVING, snapshot.number)
        )
        condemned.append(msgspec.structs.replace(snapshot, key=key, state=REMOVING, parent=""))
    return condemned


def all_snapshots(connection: sqlite3.Connection) -> list[Snapshot]:
    """Every snapshot, as a transaction of the caller's sees them."""
    return [_snapshot(row) for row in connection.execute(f"SELECT {_COLUMNS} FROM snapshots")]


def _require_committed(connection: sqlite3.Connection, parent: str) -> None:
    row = connection.execute("SELECT state FROM snapshots WHERE key = ?", (parent,)).fetchone()
    if row is None:
        raise NotFound(f"parent snapshot {parent}: does not exist")
    if row[0] != COMMITTED:
        raise FailedPrecondition(f"parent snapshot {parent}: is {row[0]}, want committed")


def _snapshot(row: sqlite3.Row) -> Snapshot:
    key, number, parent, state, record = row
    return Snapshot(key, number, parent or "", state, _DECODER.decode(record))
