"""Deletions in a layer (image-spec, layer.md, "Whiteouts"): `.wh.NAME` hides NAME of the layers below, and
`.wh..wh..opq` all that they have in its directory. What the same layer adds is never hidden, whatever the order."""

from __future__ import annotations

import os
import stat

from orlop.layers.tree import Tree, names_in, stat_or_none
from orlop.spec.errors import InvalidArgument

WHITEOUT = b".wh."
META = b".wh..wh."  # AUFS' own bookkeeping, of which only the opaque mark has a meaning in images
OPAQUE = b".wh..wh..opq"
_READ_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Whiteouts:
    """Writes overlayfs' marks, or deletes where the tree is a copy of the lower layers."""

    def __init__(self, tree: Tree, overlay: bool) -> None:
        self._tree = tree
        self._overlay = overlay
        self._touched: set[bytes] = set()  # copies only: what this layer wrote, and the directories above it

    def claims(self, above: bytes, name: bytes) -> bool:
        """Whether an entry is a mark and not contents."""
        return name.startswith(WHITEOUT) or above.startswith(META) or b"/" + META in above

    def touch(self, real: bytes) -> None:
        """This layer wrote `real`."""
        while real and real not in self._touched:
            self._tree.hold(real)
            self._touched.add(real)
            real = real.rpartition(b"/")[0]

    def apply(self, above: bytes, name: bytes) -> None:
        """Obey the mark `name` in the directory `above`."""
        if name == OPAQUE:
            self._hide_all(above)
            return
        if name.startswith(META) or above.startswith(META) or b"/" + META in above:
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise InvalidArgument("whiteout of no name")
        if self._overlay:
            at, _ = self._tree.parent(above, create=True)
            self._mark(at, hidden)
            return
        try:
            at, real = self._tree.parent(above, create=False)
        except FileNotFoundError:
            return
        self._delete(at, hidden, real + b"/" + hidden if real else hidden)

    def _mark(self, at: int, name: bytes) -> None:
        found = stat_or_none(at, name)
        if found is None:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=at)
        elif stat.S_ISDIR(found.st_mode):
            self._tree.make_opaque(at, name)

    def _hide_all(self, above: bytes) -> None:
        if self._overlay:
            at, _ = self._tree.parent(above, create=True)
            self._tree.make_opaque(at, b".")
            return
        try:
            at, real = self._tree.parent(above, create=False)
        except FileNotFoundError:
            return
        self._delete_children(at, b".", real)

    def _delete(self, at: int, name: bytes, real: bytes) -> None:
        """Delete `name` below `at`, sparing what this layer wrote."""
        found = stat_or_none(at, name)
        if found is None:
            return
        if real not in self._touched:
            self._tree.remove(at, name, real, found.st_mode)
        elif stat.S_ISDIR(found.st_mode):
            self._delete_children(at, name, real)

    def _delete_children(self, at: int, name: bytes, real: bytes) -> None:
        fd = os.open(name, _READ_DIR, dir_fd=at)
        try:
            for child in names_in(fd):
                self._delete(fd, child, real + b"/" + child if real else child)
        finally:
            os.close(fd)
