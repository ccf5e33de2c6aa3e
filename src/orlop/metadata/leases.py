"""Leases: what a process is working on, so that the garbage collector leaves it alone.

A lease names blobs (kind `content`) and snapshots (kind `snapshot`). It ends when its holder ends it, when it expires,
or when the process that holds it is gone. Adding to a lease and collecting garbage are both transactions, so whatever
was added before a collection began is seen by it, and what is added later finds only what was left.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from orlop.metadata.database import Database
from orlop.spec.errors import OrlopError

CONTENT, SNAPSHOT = "content", "snapshot"
LIFETIME = 24 * 3600.0  # seconds
_PID_BITS = 22  # PID_MAX_LIMIT is 4 Mi (proc(5))


class Lease:
    """A lease that is held; get one from `hold`."""

    def __init__(self, database: Database, identifier: str, lifetime: float) -> None:
        self.id = identifier
        self._database = database
        self._expires = time.time() + lifetime
        self._owner = owner_of(os.getpid())

    def add(self, kind: str, *resources: str) -> None:
        """Hold on to blobs or snapshots, which need not exist yet. Look whether they do only afterwards."""
        rows = [(self.id, kind, resource, self._expires, self._owner) for resource in resources]
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO leases (id, kind, resource, expires, owner) VALUES (?, ?, ?, ?, ?)", rows
            )

    def end(self) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE id = ?", (self.id,))


@contextmanager
def hold(database: Database, lifetime: float = LIFETIME) -> Iterator[Lease]:
    """A lease for a `with` block."""
    lease = Lease(database, os.urandom(16).hex(), lifetime)
    try:
        yield lease
    except BaseException:
        with suppress(OrlopError):  # the first error is the one to tell, and the lease ends with the process anyway
            lease.end()
        raise
    lease.end()


def abandoned(database: Database) -> bool:
    """Whether a process ended without ending its leases: what it was at is then for the garbage collector."""
    return bool(_dead(database.read("SELECT DISTINCT owner FROM leases")))


def _dead(rows: list[sqlite3.Row]) -> list[int]:
    return [row[0] for row in rows if owner_of(row[0] & ((1 << _PID_BITS) - 1)) != row[0]]


def drop_dead(connection: sqlite3.Connection) -> None:
    """Delete leases that have expired or whose process is gone."""
    dead = _dead(connection.execute("SELECT DISTINCT owner FROM leases").fetchall())
    connection.executemany("DELETE FROM leases WHERE owner = ?", [(owner,) for owner in dead])
    connection.execute("DELETE FROM leases WHERE expires < ?", (time.time(),))


def held(connection: sqlite3.Connection, kind: str) -> set[str]:
    """The resources of this kind that live leases hold."""
    return {row[0] for row in connection.execute("SELECT resource FROM leases WHERE kind = ?", (kind,))}


def owner_of(pid: int) -> int:
    """A number for a process that no later one has: its start (clock ticks since boot, proc(5) stat field 22) beside
    its pid. 0 if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19]) << _PID_BITS | pid
