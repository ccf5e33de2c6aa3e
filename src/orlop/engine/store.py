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
from orlop.spec.document import known
from orlop.spec.errors import AlreadyExists, InvalidArgument, NotFound

NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"
_COLUMNS = "id, namespace, name, state, created, config, record"
_CONFIG_AT = 5
_RECORD = msgspec.json.Decoder(known(ContainerRecord))
_CONFIG = msgspec.json.Decoder(known(ContainerConfig))


class ContainerStore:
    """The containers of one namespace. Every method is one transaction."""

    def __init__(self, database: Database, namespace: str) -> None:
        self.database = database
        self.namespace = namespace
        self._decoded: dict[str, tuple[tuple[object, ...], Container]] = {}  # by ID, with the rows

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
        found = [self._container(row) for row in rows]
        known = self._decoded
        self._decoded = {c.id: known[c.id] for c in found if c.id in known}  # without those that are gone
        return found

    def _container(self, row: sqlite3.Row) -> Container:
        """As it was read the last time, if nothing in the row has changed since: a daemon reads the same ones often.
        What was asked for (`config`) hardly ever changes."""
        raw = tuple(row)
        known = self._decoded.get(row["id"])
        if known is not None and known[0] == raw:
            return known[1]
        same = known is not None and known[0][_CONFIG_AT] == row["config"]
        container = Container(
            id=row["id"],
            namespace=row["namespace"],
            name=row["name"],
            state=row["state"],
            created=row["created"],
            config=known[1].config if known is not None and same else _CONFIG.decode(row["config"]),
            record=_RECORD.decode(row["record"]),
        )
        self._decoded[container.id] = (raw, container)
        return container

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
        return self._container(sorted(rows, key=lambda row: bool(row["id"] != text))[0])

    def named(self, name: str) -> Container:
        """The container that has exactly this name."""
        rows = self.database.read(
            f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND name = ?", (self.namespace, name)
        )
        if not rows:
            raise NotFound(f"no such container: {name[:255]}")
        return self._container(rows[0])

    def get(self, identifier: str) -> Container | None:
        """The container with exactly this ID, in any namespace."""
        rows = self.database.read(f"SELECT {_COLUMNS} FROM containers WHERE id = ?", (identifier,))
        return self._container(rows[0]) if rows else None

    def change(self, identifier: str, event: str, action: str = "", **changes: Any) -> Container:
        """Move a container along the transition `event` and set fields of its record, in one transaction.

        Raises `FailedPrecondition` where the table of transitions does not allow it, and `NotFound` where another
        process has removed the container meanwhile. `action` writes an event of that name.
        """
        with self.database.transaction() as connection:
            container = self._fetch(connection, identifier)
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
            container = msgspec.structs.replace(self._fetch(connection, identifier), name=name, config=config)
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
            events.write(connection, row["namespace"], _event(self._container(row), "destroy"))
        self._decoded.pop(identifier, None)

    def _fetch(self, connection: sqlite3.Connection, identifier: str) -> Container:
        row = connection.execute(f"SELECT {_COLUMNS} FROM containers WHERE id = ?", (identifier,)).fetchone()
        if row is None:
            raise NotFound(f"no such container: {identifier[:12]}")
        return self._container(row)

    def _elsewhere(self, text: str) -> str:
        """Where the name is known, if not here: users of several namespaces look in the wrong one first."""
        rows = self.database.read(
            "SELECT namespace, count(*) AS matches FROM containers WHERE namespace != ? AND (name = ? OR id = ?) "
            "GROUP BY namespace",
            (self.namespace, text, text),
        )
        found = ", ".join(f"{row['matches']} match in `{row['namespace']}`" for row in rows)
        return f" (not in `{self.namespace}`; {found})" if found else ""


def _event(container: Container, action: str) -> Event:
    attributes = {"name": container.name, "image": container.config.image}
    if action == "die":
        attributes["exitCode"] = str(container.record.exit_code)
    attributes |= container.config.labels
    if container.config.pod is not None:
        attributes["sandbox"] = container.config.pod.sandbox or container.id
    return Event(type="container", action=action, id=container.id, attributes=attributes)
