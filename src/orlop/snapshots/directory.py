"""What the snapshotters have in common: rows in the database, and a numbered directory for each.

The interface and its contract stand in `snapshots.snapshotter`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import msgspec

from orlop.metadata.database import Database
from orlop.metadata.snapshots import COMMITTED, PREPARING, REMOVING, Snapshot, SnapshotRecord, SnapshotTable
from orlop.spec.digest import sha256_hex
from orlop.spec.errors import InvalidArgument, ResourceExhausted, os_errors
from orlop.sys.lock import lock_file, locked, try_lock
from orlop.sys.tree import measure_tree, remove_tree


class Usage(msgspec.Struct, frozen=True):
    """What a snapshot holds itself, without its parents: bytes of regular files, and entries of any kind."""

    size: int
    entries: int


class Claim:
    """The right to make one snapshot, until `release`; or until the process ends."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd: int | None = fd

    def release(self) -> None:
        """Give it up; again does nothing."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._path.unlink(missing_ok=True)
            os.close(fd)


class DirectorySnapshotter:
    """What the snapshotters have in common: a directory `<root>/<number>/fs` for each snapshot."""

    name: ClassVar[str] = ""
    stackable: ClassVar[bool] = False
    whiteouts: str = "remove"

    def __init__(self, root: Path, database: Database) -> None:
        self.root = root
        self.table = SnapshotTable(database)

    def prepare(self, key: str, parent: str = "", labels: dict[str, str] | None = None) -> Snapshot:
        return self._make(key, parent, SnapshotRecord(labels=labels or {}))

    def view(self, key: str, parent: str, labels: dict[str, str] | None = None) -> Snapshot:
        if not parent:
            raise InvalidArgument(f"view {key}: has no parent")
        return self._make(key, parent, SnapshotRecord(labels=labels or {}, read_only=True))

    def directory(self, key: str) -> Path:
        return self.root / str(self.table.get(key).number) / "fs"

    def commit(self, name: str, key: str, parent: str | None = None, usage: Usage | None = None) -> Snapshot:
        old = self.table.get(key)
        if parent is not None and parent != old.parent and not self.stackable:
            raise InvalidArgument(f"snapshot {key}: the {self.name} snapshotter cannot change a snapshot's parent")
        usage = usage or self.usage(key)
        return self.table.commit(name, key, old.parent if parent is None else parent, usage.size, usage.entries)

    def remove(self, key: str) -> None:
        with self._working():
            try:
                condemned = self.table.condemn(key)
            except ResourceExhausted:
                # Even the note of a removal takes space. Where the disk is full make some first.
                self._empty(key)
                condemned = self.table.condemn(key)
            if condemned is not None:
                self._clear(condemned)

    def find(self, key: str) -> Snapshot | None:
        return self.table.find(key)

    def exists(self, key: str) -> bool:
        return self.table.find(key) is not None

    def stat(self, key: str) -> Snapshot:
        return self.table.get(key)

    def walk(self) -> Iterator[Snapshot]:
        yield from self.table.all()

    def usage(self, key: str) -> Usage:
        snapshot = self.table.get(key)
        if snapshot.record.size >= 0:
            return Usage(snapshot.record.size, snapshot.record.entries)
        with os_errors("measure snapshot"):
            return Usage(*measure_tree(self.root / str(snapshot.number) / "fs"))

    def recover(self) -> int:
        if not self.root.is_dir():
            return 0
        with os_errors("recover snapshots"):
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                return self._recover() if try_lock(fd) else 0
            finally:
                os.close(fd)

    def exclusive(self, name: str, check: Callable[[], None] | None = None) -> Claim:
        with os_errors("lock snapshot"):
            directory = self.root / "locks"
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = directory / sha256_hex(name.encode())
            fd = lock_file(path, check)
            assert fd is not None
            return Claim(path, fd)

    def finish_removals(self) -> None:
        with self._working():
            for snapshot in self.table.all(REMOVING):
                self._clear(snapshot)

    def _recover(self) -> int:
        """Under the exclusive lock nobody is in the middle of anything: what is unfinished was left behind."""
        unfinished = [s for s in self.table.all() if s.state in (PREPARING, REMOVING)]
        for snapshot in unfinished:
            self._clear(snapshot)
        known = {str(snapshot.number) for snapshot in self.table.all()}
        strays = [entry for entry in self.root.iterdir() if entry.name.isdecimal() and entry.name not in known]
        for stray in strays:
            remove_tree(stray)
        return len(unfinished) + len(strays)

    def _make(self, key: str, parent: str, record: SnapshotRecord) -> Snapshot:
        with self._working():
            snapshot = self.table.reserve(key, parent, record)
            try:
                with os_errors(f"prepare snapshot {key}"):
                    self._fill(snapshot, self.root / str(snapshot.number))
                return self.table.activate(snapshot)
            except BaseException:
                self._clear(snapshot)
                raise

    def _fill(self, snapshot: Snapshot, directory: Path) -> None:
        """Make what `snapshot` needs under `directory`, which may be there from before a crash."""
        raise NotImplementedError

    def _empty(self, key: str) -> None:
        """Remove the files of a snapshot that is going to be removed and that nothing can stand on."""
        snapshot = self.table.find(key)
        if snapshot is not None and snapshot.state != COMMITTED:
            with os_errors("remove snapshot"):
                remove_tree(self.root / str(snapshot.number))

    def _clear(self, snapshot: Snapshot) -> None:
        with os_errors("remove snapshot"):
            remove_tree(self.root / str(snapshot.number))
        self.table.forget(snapshot.number)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Hold off `recover` while a snapshot is being made or removed."""
        if not self.root.is_dir():
            with os_errors("make snapshot directory"):
                self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        with locked(self.root / "lock", shared=True):
            yield


def make_directory(path: Path) -> None:
    """Make `path` as an empty directory, whatever was there."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        remove_tree(path)
        os.mkdir(path, 0o700)
