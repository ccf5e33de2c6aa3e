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

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Protocol

from orlop.metadata.snapshots import Snapshot
from orlop.snapshots.directory import Claim, Usage
from orlop.snapshots.mounts import Mount


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
