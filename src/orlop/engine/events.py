"""The journal of what happened, in the database so that every process sees it. Old entries are dropped."""

from __future__ import annotations

import sqlite3
import time

import msgspec

from orlop.engine.records import Event
from orlop.metadata.database import Database
from orlop.spec.document import known

KEPT = 10_000  # entries


def write(connection: sqlite3.Connection, namespace: str, event: Event) -> None:
    """Add an event inside the transaction that makes it true."""
    now = time.time()
    cursor = connection.execute(
        "INSERT INTO events (time, namespace, record) VALUES (?, ?, ?)",
        (now, namespace, msgspec.json.encode(msgspec.structs.replace(event, time=now))),
    )
    if cursor.lastrowid and cursor.lastrowid % 1000 == 0:
        connection.execute("DELETE FROM events WHERE id <= ?", (cursor.lastrowid - KEPT,))


def last(database: Database) -> int:
    """The number of the latest event; 0 before there was any."""
    rows = database.read("SELECT max(id) FROM events")
    return int(rows[0][0] or 0)


def since(database: Database, namespace: str, after: int = 0, moment: float = 0) -> list[tuple[int, Event]]:
    """Events with a number above `after` that happened no earlier than `moment`, oldest first."""
    rows = database.read(
        "SELECT id, record FROM events WHERE namespace = ? AND id > ? AND time >= ? ORDER BY id",
        (namespace, after, moment),
    )
    return [(row["id"], msgspec.json.decode(row["record"], type=known(Event))) for row in rows]


def exit_code(database: Database, namespace: str, container: str, otherwise: int) -> int:
    """How a container ended that has been removed since; `otherwise` where the journal does not go back so far."""
    rows = database.read("SELECT record FROM events WHERE namespace = ? ORDER BY id DESC", (namespace,))
    for row in rows:
        event = msgspec.json.decode(row["record"], type=known(Event))
        if (event.id, event.action) == (container, "die"):
            return int(event.attributes["exitCode"])
    return otherwise
