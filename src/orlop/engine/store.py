"""Containers in the database: reserve a name, look one up, change one in a transaction."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

import msgspec

from orlop.engine import events, lifecycle
from orlop.engine.config import ContainerConfig
from orlop.engine.records import Container, ContainerRecord, Event
from orlop.metadata.database import Database
from orlop.spec.errors import AlreadyExists, InvalidArgument, NotFound

NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"
_COLUMNS = "id, namespace, name, state, created, config, record"
_RECORD = msgspec.json.Decoder(ContainerRecord)
_CONFIG = msgspec.json.Decoder(ContainerConfig)


class ContainerStore:
    """The containers of one namespace. Every method is one transaction."""

    def __init__(self, database: Database, namespace: str) -> None:
        self.database = database
        self.namespace = namespace
        self._decoded: dict[str, tuple[tuple[object, ...], Container]] = {}

    def reserve(self, container: Container) -> None:
        """Enter a new container; its name is taken from this moment on."""
        with self.database.transaction() as connection:
            taken = connection.execute(
                "SELECT id FROM containers WHERE namespace = ? AND name = ?", (self.namespace, container.name)
            ).fetchone()
            if taken:
                raise AlreadyExists(
                    f'container name "{container.name}" is already in use by container {taken[0][:12]}; '
                    "remove or rename that container, or choose another name"
                )
            connection.execute(
                "INSERT INTO containers (id, namespace, name, state, image, created, config, record) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    container.id,
                    self.namespace,
                    container.name,
                    container.state,
                    container.record.image_id,
                    container.created,
                    msgspec.json.encode(container.config),
                    msgspec.json.encode(container.record),
                ),
            )

    def all(self) -> list[Container]:
        """Every container of the namespace, newest first."""
        rows = self.database.read(
            f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? ORDER BY created DESC", (self.namespace,)
        )
        decoded = {row["id"]: self._decode(row) for row in rows}
        self._decoded = decoded
        return [container for _, container in decoded.values()]

    def _decode(self, row: sqlite3.Row) -> tuple[tuple[object, ...], Container]:
        """A row as it was decoded the last time, if nothing in it has changed since: a daemon lists often."""
        known, raw = self._decoded.get(row["id"]), tuple(row)
        return known if known is not None and known[0] == raw else (raw, _container(row))

    def find(self, text: str) -> Container:
        """The container that a user means by a full ID, a name, or the beginning of an ID."""
        if not text or len(text) > 255:
            raise InvalidArgument("container name or id is empty or too long")
        rows = self.database.read(
            f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND (id = ? OR name = ?)",
            (self.namespace, text, text.removeprefix("/")),
        )
        if not rows and re.fullmatch(r"[0-9a-f]{1,63}", text):
            rows = self.database.read(
                f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND id >= ? AND id < ?",
                (self.namespace, text, text + "g"),
            )
            if len(rows) > 1:
                raise InvalidArgument(f"container id {text} is ambiguous: {len(rows)} containers begin with it")
        if not rows:
            raise NotFound(f"no such container: {text}{self._elsewhere(text)}")
        return _container(sorted(rows, key=lambda row: bool(row["id"] != text))[0])

    def named(self, name: str) -> Container:
        """The container that has exactly this name."""
        rows = self.database.read(
            f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND name = ?", (self.namespace, name)
        )
        if not rows:
            raise NotFound(f"no such container: {name[:255]}")
        return _container(rows[0])

    def get(self, identifier: str) -> Container | None:
        """The container with exactly this ID, in any namespace."""
        rows = self.database.read(f"SELECT {_COLUMNS} FROM containers WHERE id = ?", (identifier,))
        return _container(rows[0]) if rows else None

    def change(self, identifier: str, event: str, action: str = "", **changes: Any) -> Container:
        """Move a container along the transition `event` and set fields of its record, in one transaction.

        Raises `FailedPrecondition` where the table of transitions does not allow it, and `NotFound` where another
        process has removed the container meanwhile. `action` writes an event of that name.
        """
        with self.database.transaction() as connection:
            container = _fetch(connection, identifier)
            state = lifecycle.after(event, container.state, container.name) if event else container.state
            container = msgspec.structs.replace(
                container, state=state, record=msgspec.structs.replace(container.record, **changes)
            )
            connection.execute(
                "UPDATE containers SET state = ?, record = ? WHERE id = ?",
                (state, msgspec.json.encode(container.record), identifier),
            )
            if action:
                events.write(connection, container.namespace, _event(container, action))
            return container

    def reconfigure(self, identifier: str, name: str, config: ContainerConfig) -> Container:
        """Give a container another name and configuration (rename, update)."""
        with self.database.transaction() as connection:
            container = msgspec.structs.replace(_fetch(connection, identifier), name=name, config=config)
            try:
                connection.execute(
                    "UPDATE containers SET name = ?, config = ? WHERE id = ?",
                    (name, msgspec.json.encode(config), identifier),
                )
            except sqlite3.IntegrityError:
                raise AlreadyExists(f'container name "{name}" is already in use') from None
            return container

    def delete(self, identifier: str) -> None:
        """Forget a container; its name is free again."""
        with self.database.transaction() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM containers WHERE id = ?", (identifier,)).fetchone()
            if row is None:
                return
            connection.execute("DELETE FROM containers WHERE id = ?", (identifier,))
            events.write(connection, row["namespace"], _event(_container(row), "destroy"))
        self._decoded.pop(identifier, None)

    def _elsewhere(self, text: str) -> str:
        """Where the name is known, if not here: users of several namespaces look in the wrong one first."""
        rows = self.database.read(
            "SELECT namespace, count(*) AS matches FROM containers WHERE namespace != ? AND (name = ? OR id = ?) "
            "GROUP BY namespace",
            (self.namespace, text, text),
        )
        found = ", ".join(f"{row['matches']} match in `{row['namespace']}`" for row in rows)
        return f" (not in `{self.namespace}`; {found})" if found else ""


def _fetch(connection: sqlite3.Connection, identifier: str) -> Container:
    row = connection.execute(f"SELECT {_COLUMNS} FROM containers WHERE id = ?", (identifier,)).fetchone()
    if row is None:
        raise NotFound(f"no such container: {identifier[:12]}")
    return _container(row)


def _container(row: sqlite3.Row) -> Container:
    return Container(
        id=row["id"],
        namespace=row["namespace"],
        name=row["name"],
        state=row["state"],
        created=row["created"],
        config=_CONFIG.decode(row["config"]),
        record=_RECORD.decode(row["record"]),
    )


def _event(container: Container, action: str) -> Event:
    attributes = {"name": container.name, "image": container.config.image}
    if action == "die":
        attributes["exitCode"] = str(container.record.exit_code)
    attributes |= container.config.labels
    if container.config.pod is not None:
        attributes["sandbox"] = container.config.pod.sandbox or container.id
    return Event(type="container", action=action, id=container.id, attributes=attributes)
