"""Volumes: named directories under `<root>/volumes/<name>/_data` that outlive containers."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from orlop.engine.names import random_id
from orlop.engine.records import Volume
from orlop.metadata.database import Database
from orlop.spec.document import known
from orlop.spec.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented, os_errors
from orlop.sys.tree import remove_tree

_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"


class Volumes:
    """The volumes of one namespace."""

    def __init__(self, database: Database, directory: Path, namespace: str) -> None:
        self.database = database
        self.directory = directory if namespace == "default" else directory / namespace
        self.namespace = namespace

    def create(
        self,
        name: str = "",
        labels: dict[str, str] | None = None,
        driver: str = "local",
        options: dict[str, str] | None = None,
        container: str = "",
    ) -> Volume:
        """Make a volume, or return the one of that name. Without a name it is anonymous: 64 random hex digits.

        With `container`, that one's use of it is noted at once, so that at no moment it is nobody's.
        """
        if driver != "local":
            raise Unimplemented(f"volume driver {driver!r}: only `local` is there")
        if options:
            raise Unimplemented(f"volume option {next(iter(options))!r}: the local driver takes none yet")
        if name and not re.fullmatch(_NAME, name):
            raise InvalidArgument(f"volume name {name[:80]!r}: want [a-zA-Z0-9][a-zA-Z0-9_.-]+")
        anonymous = not name
        volume = Volume(name=name or random_id(), created=time.time(), labels=labels or {}, anonymous=anonymous)
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO volumes (namespace, name, anonymous, record) VALUES (?, ?, ?, ?)",
                (self.namespace, volume.name, int(anonymous), msgspec.json.encode(volume)),
            )
            if container:
                connection.execute(
                    "INSERT OR IGNORE INTO volume_users (namespace, volume, container) VALUES (?, ?, ?)",
                    (self.namespace, volume.name, container),
                )
        with os_errors("make volume"):
            path = self.path(volume.name)
            os.makedirs(path.parent, mode=0o755, exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(path)
                os.chmod(path, 0o755)  # whatever the umask: it is the container's
        return self.get(volume.name)

    def path(self, name: str) -> Path:
        """The host directory that holds a volume's files."""
        return self.directory / name / "_data"

    def get(self, name: str) -> Volume:
        rows = self.database.read("SELECT record FROM volumes WHERE namespace = ? AND name = ?", (self.namespace, name))
        if not rows:
            raise NotFound(f"no such volume: {name}")
        return self._volume(rows[0]["record"])

    def exists(self, name: str) -> bool:
        return bool(
            self.database.read("SELECT 1 FROM volumes WHERE namespace = ? AND name = ?", (self.namespace, name))
        )

    def all(self) -> list[Volume]:
        """Every volume, by name."""
        rows = self.database.read("SELECT record FROM volumes WHERE namespace = ? ORDER BY name", (self.namespace,))
        return [self._volume(row["record"]) for row in rows]

    def users(self, name: str) -> list[str]:
        """IDs of the containers that mount a volume, and so keep it from being removed until `release`."""
        rows = self.database.read(
            "SELECT container FROM volume_users WHERE namespace = ? AND volume = ?", (self.namespace, name)
        )
        return [row["container"] for row in rows]

    def release(self, container: str, remove_anonymous: bool) -> None:
        """End a container's use of its volumes; anonymous ones that nothing else uses go, if asked."""
        with self.database.transaction() as connection:
            mine = connection.execute(
                "SELECT volume FROM volume_users WHERE namespace = ? AND container = ?", (self.namespace, container)
            ).fetchall()
            connection.execute(
                "DELETE FROM volume_users WHERE namespace = ? AND container = ?", (self.namespace, container)
            )
        for row in mine if remove_anonymous else ():
            name = row["volume"]
            if self.exists(name) and self.get(name).anonymous and not self.users(name):
                self.remove(name)

    def remove(self, name: str, force: bool = False) -> None:
        """Remove a volume and its files. A volume that a container uses is refused."""
        if not self.exists(name):
            if force:
                return
            raise NotFound(f"no such volume: {name}")
        with self.database.transaction() as connection:
            users = connection.execute(
                "SELECT container FROM volume_users WHERE namespace = ? AND volume = ?", (self.namespace, name)
            ).fetchall()
            if users:
                listed = ", ".join(row["container"][:12] for row in users)
                raise FailedPrecondition(f"remove volume {name}: volume is in use by {listed}")
            connection.execute("DELETE FROM volumes WHERE namespace = ? AND name = ?", (self.namespace, name))
        remove_tree(self.directory / name)

    def prune(self, everything: bool = False) -> list[str]:
        """Remove volumes that no container uses: anonymous ones, or all. Returns their names."""
        gone = []
        for volume in self.all():
            if (everything or volume.anonymous) and not self.users(volume.name):
                self.remove(volume.name)
                gone.append(volume.name)
        return gone

    def _volume(self, record: bytes) -> Volume:
        volume = msgspec.json.decode(record, type=known(Volume))
        return msgspec.structs.replace(volume, mountpoint=str(self.path(volume.name)))
