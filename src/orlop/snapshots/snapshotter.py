"""Snapshotters: where the unpacked layers of images and the writable layers of containers live.

Terms, as in containerd. A *snapshot* is the state of a file tree. An *active* snapshot is writable; a *view* is one
that is only read; a *committed* one never changes again, and others may name it as their *parent*. A snapshot is
known by its *key*: for the layers of images the chain ID (image-spec, config.md), for a container its ID.

The life of an image and of a container on it:

    active = snapshotter.prepare("extract-1")           # an empty tree
    ... unpack the first layer into snapshotter.directory("extract-1") ...
    snapshotter.commit(chain_1, "extract-1")            # the key extract-1 is gone, chain_1 is there
    ... and so on, up to chain_n, each with the one before as its parent ...
    snapshotter.prepare("container", parent=chain_n)
    mounts = snapshotter.mounts("container")            # says what to mount; nothing has been mounted
    fd = detached(mounts)                               # snapshots.detached performs it
    snapshotter.remove("container")

Where `stackable` is true a layer does not depend on the tree beneath it: it may be unpacked into an active snapshot
without a parent, and be given its parent by `commit`. Layers of one image can then be unpacked at the same time.

kill -9 at any point leaves rows in state `preparing` or `removing` at worst; `recover` removes what they name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Protocol

import msgspec

from orlop.metadata.database import Database
from orlop.metadata.snapshots import COMMITTED, PREPARING, REMOVING, Snapshot, SnapshotRecord, SnapshotTable
from orlop.snapshots.mounts import Mount
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


class Snapshotter(Protocol):
    """The interface; the module's docstring is its contract."""

    name: ClassVar[str]
    stackable: ClassVar[bool]
    whiteouts: str  # how a layer's whiteouts are to be unpacked: a value of layers.limits.WhiteoutFormat

    def prepare(self, key: str, parent: str = "", labels: dict[str, str] | None = None) -> Snapshot:
        """Make an active snapshot on a committed parent, or an empty one."""

    def view(self, key: str, parent: str, labels: dict[str, str] | None = None) -> Snapshot:
        """Make a read-only snapshot of a committed parent."""

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """What to mount for an active snapshot or a view. Nothing is mounted, and nothing is looked up but rows."""

    def directory(self, key: str) -> Path:
        """The directory that takes an active snapshot's changes: where a layer is unpacked."""

    def commit(self, name: str, key: str, parent: str | None = None, usage: Usage | None = None) -> Snapshot:
        """Turn the active snapshot `key` into the committed one `name`. `parent` gives it one, where `stackable`."""

    def remove(self, key: str) -> None:
        """Remove a snapshot; one that is not there is fine, one that others stand on is `FailedPrecondition`."""

    def find(self, key: str) -> Snapshot | None:
        """The snapshot, or None."""

    def exists(self, key: str) -> bool:
        """Whether there is such a snapshot."""

    def stat(self, key: str) -> Snapshot:
        """The snapshot, or `NotFound`."""

    def walk(self) -> Iterator[Snapshot]:
        """Every snapshot."""

    def usage(self, key: str) -> Usage:
        """What a snapshot holds itself; measured now if it is not committed."""

    def exclusive(self, name: str, check: Callable[[], None] | None = None) -> Claim:
        """Wait to be the only one, in any process, who makes the snapshot `name`. `check` may raise to give up."""

    def finish_removals(self) -> None:
        """Remove the directories of snapshots that the garbage collector has marked `removing`."""

    def recover(self) -> int:
        """Finish what was interrupted; returns how many snapshots were removed. Does nothing while others work."""


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
            path = directory / hashlib.sha256(name.encode()).hexdigest()
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
