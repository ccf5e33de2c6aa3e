"""The copy snapshotter, for file systems and kernels without overlayfs: every snapshot is a whole tree.

<root>/<number>/fs    the tree: a copy of the parent's, with the changes made in place
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from orlop.metadata.snapshots import COMMITTED, Snapshot
from orlop.snapshots.directory import DirectorySnapshotter, make_directory
from orlop.snapshots.mounts import Bind, Mount
from orlop.spec.errors import FailedPrecondition


class CopySnapshotter(DirectorySnapshotter):
    """Whole trees. A view needs no copy: it is its parent, mounted read-only."""

    name: ClassVar[str] = "copy"
    stackable: ClassVar[bool] = False

    def mounts(self, key: str) -> tuple[Mount, ...]:
        top = self.table.get(key)
        if top.state == COMMITTED:
            raise FailedPrecondition(f"snapshot {key}: is committed; prepare or view one on it to mount it")
        source = self.table.get(top.parent) if top.record.read_only else top
        return (Bind(f"{self.root}/{source.number}/fs", read_only=top.record.read_only),)

    def _fill(self, snapshot: Snapshot, directory: Path) -> None:
        make_directory(directory)
        os.mkdir(directory / "fs", 0o755)
        if snapshot.parent and not snapshot.record.read_only:
            from orlop.snapshots.copytree import copy_tree

            copy_tree(self.directory(snapshot.parent), directory / "fs")
