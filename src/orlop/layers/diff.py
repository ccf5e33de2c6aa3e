"""The layer that a directory adds: for commit, build and export.

`diff_overlay` reads overlayfs' upper directory, which is the difference already, and turns its marks back into the
image-spec's whiteouts. `diff_trees` compares two whole trees (copy snapshotter).
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from orlop.layers.pack import Member, pack
from orlop.layers.tree import at_path, names_in, shown, stat_or_none
from orlop.layers.whiteouts import OPAQUE, WHITEOUT
from orlop.spec.errors import Aborted, FailedPrecondition, ResourceExhausted, os_errors
from orlop.wire import tar

_READ_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
# Contents that are elsewhere: a copy of this directory alone would be a lie.
_INDIRECT = tuple(f"{space}.overlay.{mark}" for space in ("trusted", "user") for mark in ("redirect", "metacopy"))
_DROPPED = ("trusted.overlay.", "user.overlay.", "security.selinux")
Xattrs = tuple[tuple[bytes, bytes], ...]
_MAX_DEPTH = 256
_CHUNK = 1 << 20
_KINDS: dict[int, tar.Kind] = {
    stat.S_IFREG: tar.FILE,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCKDEV,
    stat.S_IFIFO: tar.FIFO,
}


def diff_overlay(upper: Path) -> Iterator[bytes]:
    """The uncompressed tar of an overlay upper directory, in pieces, sorted by name. The directory should not change
    meanwhile; `Aborted` when a file does. Raises FailedPrecondition for redirects and metacopy files."""
    return pack(_members(upper, None))


def diff_trees(lower: Path, upper: Path) -> Iterator[bytes]:
    """The uncompressed tar of what must be applied to `lower` to make it `upper`."""
    return pack(_members(upper, lower))


def _members(upper: Path, lower: Path | None) -> Iterator[Member]:
    with os_errors("read layer"):
        up = os.open(upper, _READ_DIR)
        down = os.open(lower, _READ_DIR) if lower is not None else -1
    try:
        with os_errors("read layer"):
            yield from _Walk(overlay=lower is None).directory(up, down, b"", 0)
    finally:
        os.close(up)
        if down >= 0:
            os.close(down)


class _Walk:
    def __init__(self, overlay: bool) -> None:
        self._overlay = overlay
        self._links: dict[tuple[int, int], bytes] = {}  # (device, inode): the first name written

    def directory(self, up: int, down: int, prefix: bytes, depth: int) -> Iterator[Member]:
        """The changes in one directory; `down` is its counterpart, or -1."""
        if depth > _MAX_DEPTH:
            raise ResourceExhausted(f"{shown(prefix)} is deeper than the limit of {_MAX_DEPTH} directories")
        names = names_in(up)
        gone = set(names_in(down)).difference(names) if down >= 0 else set()
        yield from (_whiteout(prefix, name) for name in sorted(gone))
        for name in sorted(names):
            if name.startswith(WHITEOUT):
                raise FailedPrecondition(f"{shown(prefix + name)}: a layer can't hold a name that begins with '.wh.'")
            found = os.stat(name, dir_fd=up, follow_symlinks=False)
            if self._overlay and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                yield _whiteout(prefix, name)
            elif stat.S_ISDIR(found.st_mode):
                yield from self._subdirectory(up, down, prefix + name, name, found, depth)
            elif stat.S_IFMT(found.st_mode) in _KINDS and not (down >= 0 and _same(up, down, name, found)):
                yield self._leaf(up, prefix + name, name, found)

    def _subdirectory(
        self, up: int, down: int, path: bytes, name: bytes, found: os.stat_result, depth: int
    ) -> Iterator[Member]:
        """A directory and what changed in it. It is described also when only its contents changed: whoever unpacks
        the layer by itself would else have to invent its owner and mode."""
        fd = os.open(name, _READ_DIR, dir_fd=up)
        below = _open_directory(down, name) if down >= 0 else -1
        try:
            xattrs = _xattrs(fd, b".", path)
            changes = self._marked(fd, path) if self._overlay else iter(())
            inner = itertools.chain(changes, self.directory(fd, below, path + b"/", depth + 1))
            first = next(inner, None)
            if first is not None or below < 0 or not _same_directory(fd, below, xattrs):
                yield Member(_entry(path, found, xattrs))
            if first is not None:
                yield first
            yield from inner
        finally:
            os.close(fd)
            if below >= 0:
                os.close(below)

    def _marked(self, fd: int, path: bytes) -> Iterator[Member]:
        marks = os.listxattr(fd)
        if any(mark in marks and os.getxattr(fd, mark) == b"y" for mark in _OPAQUE):
            yield Member(tar.Entry(path=path + b"/" + OPAQUE))

    def _leaf(self, up: int, path: bytes, name: bytes, found: os.stat_result) -> Member:
        if found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                return Member(_entry(path, found, (), kind=tar.HARDLINK, link=first))
        if stat.S_ISREG(found.st_mode):
            return _file(up, path, name)
        link = os.fsencode(os.readlink(name, dir_fd=up)) if stat.S_ISLNK(found.st_mode) else b""
        return Member(_entry(path, found, _xattrs(up, name, path), link=link))


def _file(up: int, path: bytes, name: bytes) -> Member:
    """A file, opened now: an object, so that an abandoned walk leaves no descriptor behind."""
    stream = os.fdopen(os.open(name, _READ_FILE, dir_fd=up), "rb", buffering=0)

    def contents() -> Iterator[bytes]:
        with stream:
            while data := stream.read(_CHUNK):
                yield data

    found = os.fstat(stream.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise Aborted(f"{shown(path)} changed while it was read")
    return Member(_entry(path, found, _xattrs(up, name, path)), contents)


def _entry(
    path: bytes, found: os.stat_result, xattrs: Xattrs, kind: tar.Kind | None = None, link: bytes = b""
) -> tar.Entry:
    kind = kind or _KINDS[stat.S_IFMT(found.st_mode)]
    size = found.st_size if kind is tar.FILE else 0
    device = kind in (tar.CHAR, tar.BLOCKDEV)
    return tar.Entry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        size=size,
        stored=size,
        mtime_ns=found.st_mtime_ns,
        link=link,
        major=os.major(found.st_rdev) if device else 0,
        minor=os.minor(found.st_rdev) if device else 0,
        xattrs=xattrs,
    )


def _whiteout(above: bytes, name: bytes) -> Member:
    return Member(tar.Entry(path=above + WHITEOUT + name))


def _xattrs(at: int, name: bytes, path: bytes) -> Xattrs:
    """The attributes that belong to the contents, sorted."""
    place = at_path(at, name)
    try:
        names = os.listxattr(place, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return ()
    for each in names:
        if each in _INDIRECT:
            raise FailedPrecondition(f"{shown(path)} has {each}: its contents are in another layer")
    kept = sorted(os.fsencode(each) for each in names if not each.startswith(_DROPPED))
    return tuple((each, os.getxattr(place, each, follow_symlinks=False)) for each in kept)


def _open_directory(at: int, name: bytes) -> int:
    """The directory `name` below `at`, or -1 when that is something else or nothing."""
    try:
        return os.open(name, _READ_DIR, dir_fd=at)
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _same_directory(up: int, down: int, xattrs: Xattrs) -> bool:
    return _described(os.fstat(up)) == _described(os.fstat(down)) and xattrs == _xattrs(down, b".", b"")


def _described(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns


def _same(up: int, down: int, name: bytes, found: os.stat_result) -> bool:
    """Whether `name`, not a directory, is the same in both."""
    before = stat_or_none(down, name)
    if before is None or _described(found) != _described(before):
        return False
    if (found.st_size, found.st_rdev) != (before.st_size, before.st_rdev):
        return False
    if _xattrs(up, name, name) != _xattrs(down, name, name):
        return False
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(name, dir_fd=up) == os.readlink(name, dir_fd=down)
    # Times from a layer are mostly whole seconds, and a change within the second would not show in them.
    whole = found.st_mtime_ns % 1_000_000_000 == 0
    return not (stat.S_ISREG(found.st_mode) and whole) or _same_contents(up, down, name)


def _same_contents(up: int, down: int, name: bytes) -> bool:
    one = os.fdopen(os.open(name, _READ_FILE, dir_fd=up), "rb", buffering=0)
    with one, os.fdopen(os.open(name, _READ_FILE, dir_fd=down), "rb", buffering=0) as other:
        while True:
            data = one.read(_CHUNK)
            if data != other.read(_CHUNK):
                return False
            if not data:
                return True
