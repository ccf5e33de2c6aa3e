"""The overlay snapshotter: a snapshot is a directory of changes, stacked by the kernel's overlayfs.

<root>/<number>/fs      the changes: an upper directory while active, a lower one when committed
<root>/<number>/work    overlayfs's own, beside `fs` on the same file system
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from orlop.metadata.database import Database
from orlop.metadata.snapshots import COMMITTED, Snapshot
from orlop.snapshots.directory import DirectorySnapshotter, make_directory
from orlop.snapshots.mounts import MAX_LAYERS, Mount, overlay
from orlop.spec.errors import FailedPrecondition, OutOfRange


class OverlaySnapshotter(DirectorySnapshotter):
    """Layers as overlayfs directories. `user_xattr` is for rootless use: see `snapshots.mounts.overlay`."""

    name: ClassVar[str] = "overlay"
    stackable: ClassVar[bool] = True

    def __init__(self, root: Path, database: Database, user_xattr: bool = False) -> None:
        super().__init__(root, database)
        self.user_xattr = user_xattr
        self.whiteouts = "overlay-user" if user_xattr else "overlay"

    def mounts(self, key: str) -> tuple[Mount, ...]:
        top, *below = self.table.chain(key)
        if top.state == COMMITTED:
            raise FailedPrecondition(f"snapshot {key}: is committed; prepare or view one on it to mount it")
        if len(below) > MAX_LAYERS:
            raise OutOfRange(f"snapshot {key}: stands on {len(below)} layers, more than the limit of {MAX_LAYERS}")
        lower = tuple(self._path(snapshot, "fs") for snapshot in below)
        if top.record.read_only:
            return (overlay(lower, user_xattr=self.user_xattr),)
        return (overlay(lower, self._path(top, "fs"), self._path(top, "work"), self.user_xattr),)

    def _recover(self) -> int:
        from orlop.snapshots.detached import sweep_scratch

        sweep_scratch(self.root)
        return super()._recover()

    def _path(self, snapshot: Snapshot, name: str) -> str:
        return f"{self.root}/{snapshot.number}/{name}"

    def _fill(self, snapshot: Snapshot, directory: Path) -> None:
        make_directory(directory)
        os.mkdir(directory / "work", 0o700)
        os.mkdir(directory / "fs", 0o755)
        if snapshot.parent:
            self._take_root_from(snapshot.parent, directory / "fs")

    def _take_root_from(self, parent: str, path: Path) -> None:
        """The merged tree's root has the mode and owner of the top directory, so that one inherits them."""
        info = os.stat(self.directory(parent))
        os.chmod(path, info.st_mode & 0o7777)
        if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(path, info.st_uid, info.st_gid)
