"""Write the entries of one layer's tar into a directory.

This is the reference implementation. `Unpacker` is fed the uncompressed tar piece by piece, from one thread, and
keeps nothing in memory but headers, so a layer of any size streams through.

Order matters in two places. Data is written before metadata, because a write drops file capabilities; owner comes
before attributes and mode, because chown drops capabilities and the set-user-id bit. Directories get their mode and
times when all is done: until then their contents still change, and a mode without `w` would lock an unprivileged
caller out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import msgspec

from orlop.layers.limits import Limits, Ownership, WhiteoutFormat
from orlop.layers.tree import Tree, at_path, shown
from orlop.layers.whiteouts import Whiteouts
from orlop.spec.errors import InvalidArgument, OrlopError, PermissionDenied, ResourceExhausted, from_os
from orlop.wire import tar
from orlop.wire.tar import Entry

_OPAQUE_XATTR = {
    WhiteoutFormat.OVERLAY: "trusted.overlay.opaque",
    WhiteoutFormat.OVERLAY_USER: "user.overlay.opaque",
    WhiteoutFormat.REMOVE: "",
}
# Bookkeeping of the file system or host a layer was made on. Overlayfs obeys its own: `redirect` from a layer would
# let it choose what shows through; SELinux labels belong to the host's policy.
_FOREIGN_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"security.selinux")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INVALID = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EISDIR, errno.EINVAL})
_TOO_BIG = frozenset({errno.EFBIG, errno.EMLINK, errno.E2BIG, errno.ERANGE, errno.EOVERFLOW})
_MAX_WARNINGS = 16
_NODES = {tar.CHAR: stat.S_IFCHR, tar.BLOCKDEV: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where an entry goes: the open parent, the last component, and the path without symlinks."""

    at: int
    name: bytes
    real: bytes


class _Later(msgspec.Struct, frozen=True, gc=False):
    """What a directory gets at the end."""

    mode: int
    times: tuple[int, int]


class Unpacker:
    """Applies a tar stream. Feed it, then `finish`; `close` in any case."""

    def __init__(self, root: int, whiteouts: WhiteoutFormat, limits: Limits, ownership: Ownership) -> None:
        """`root`: a descriptor of the target directory, which stays the caller's."""
        self.entries = 0
        self.warnings: list[str] = []
        self._limits = limits
        self._ownership = ownership
        self._overlay = whiteouts is not WhiteoutFormat.REMOVE
        self._opaque = _OPAQUE_XATTR[whiteouts]
        owner = ownership.owner(0, 0) if ownership.keep else None
        self._tree = Tree(root, self._opaque, owner, limits.max_depth, limits.max_names)
        self._whiteouts = Whiteouts(self._tree, self._overlay)
        self._decoder = tar.Decoder(tar.HeaderLimits(limits.max_pax, limits.max_path, limits.max_xattrs))
        self._directories: dict[bytes, _Later] = {}
        self._logical = 0
        self._file = -1
        self._current: Entry | None = None
        self._segment = self._in_segment = 0

    @property
    def implied(self) -> tuple[bytes, ...]:
        # The root of an overlay's top layer is what shows, so it counts as much as any other directory.
        root = (b"",) if self._overlay and b"" not in self._directories else ()
        return (*root, *self._tree.implied)

    def feed(self, chunk: bytes) -> None:
        """Apply what `chunk` completes. Raises an `OrlopError` that names the entry."""
        self._decoder.feed(chunk)
        self._advance()

    def finish(self) -> None:
        """The stream has ended: check that it ended well and set what directories get last."""
        self._decoder.close()
        self._advance()
        for real in sorted(self._directories, reverse=True):  # children before parents
            try:
                self._finish_directory(real, self._directories[real])
            except OSError as error:
                raise _named(error, real) from error

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._tree.forget()

    def _advance(self) -> None:
        decoder = self._decoder
        while True:
            entry = self._current
            if entry is None:
                found = decoder.next_entry()
                if not isinstance(found, Entry):
                    return
                entry = found
                self.entries += 1
                if self.entries > self._limits.max_entries:
                    raise ResourceExhausted(f"layer has more than the limit of {self._limits.max_entries} entries")
            try:
                if self._current is None:
                    self._apply(entry)
                if self._current is not None and not self._contents(entry):
                    return
            except (OrlopError, OSError, OverflowError) as error:
                raise _named(error, entry.path) from error

    # placing

    def _apply(self, entry: Entry) -> None:
        above, name = clean(entry.path, self._limits.max_depth)
        if not name:
            self._apply_root(entry)
            return
        if self._whiteouts.claims(above, name):
            self._whiteouts.apply(above, name)
            return
        at, real = self._tree.parent(above, create=True)
        place = _Place(at, name, real + b"/" + name if real else name)
        if not self._overlay:
            self._whiteouts.touch(place.real)
        _WRITERS[entry.kind](self, entry, place)

    def _apply_root(self, entry: Entry) -> None:
        if entry.kind is not tar.DIRECTORY:
            raise InvalidArgument(f"a {entry.kind} can't take the place of the root")
        self._describe_directory(entry, _Place(self._tree.root, b".", b""), replaced=True)

    def _clear(self, place: _Place) -> os.stat_result:
        """Remove what is in the way of an entry: a later one wins. Says what it was."""
        found = os.stat(place.name, dir_fd=place.at, follow_symlinks=False)
        self._tree.remove(place.at, place.name, place.real, found.st_mode)
        return found

    # files

    def _file_entry(self, entry: Entry, place: _Place) -> None:
        self._logical += entry.size
        if self._logical > self._limits.max_size:
            raise ResourceExhausted(f"files of the layer hold more than the limit of {self._limits.max_size} bytes")
        try:
            self._file = os.open(place.name, _NEW_FILE, 0o600, dir_fd=place.at)
        except FileExistsError:
            self._clear(place)
            self._file = os.open(place.name, _NEW_FILE, 0o600, dir_fd=place.at)
        self._segment = self._in_segment = 0
        self._current = entry

    def _contents(self, entry: Entry) -> bool:
        """Write what is at hand of the file's contents; True when it is complete and closed."""
        decoder = self._decoder
        while decoder.remaining:
            piece = decoder.take()
            if not piece:
                return False
            if entry.segments is None:
                _write(self._file, piece)
            else:
                self._scatter(entry.segments, memoryview(piece))
        self._finish_file(entry)
        return True

    def _scatter(self, segments: tuple[tuple[int, int], ...], piece: memoryview) -> None:
        """Write stored bytes of a sparse file where its map says."""
        while piece:
            offset, length = segments[self._segment]
            part = piece[: length - self._in_segment]
            if part:
                os.lseek(self._file, offset + self._in_segment, os.SEEK_SET)
                _write(self._file, part)
            self._in_segment += len(part)
            piece = piece[len(part) :]
            if self._in_segment == length:
                self._segment += 1
                self._in_segment = 0

    def _finish_file(self, entry: Entry) -> None:
        fd = self._file
        if entry.segments is not None:
            os.ftruncate(fd, entry.size)
        if self._ownership.keep:
            os.fchown(fd, *self._ownership.owner(entry.uid, entry.gid))
        if entry.xattrs:
            self._set_xattrs(entry, fd)
        os.fchmod(fd, entry.mode)
        os.utime(fd, ns=_times(entry))
        self._file = -1
        self._current = None
        os.close(fd)

    # everything else

    def _directory(self, entry: Entry, place: _Place) -> None:
        replaced = False
        try:
            os.mkdir(place.name, 0o700, dir_fd=place.at)
        except FileExistsError:
            replaced = self._directory_over(place)
        self._tree.implied.pop(place.real, None)
        self._describe_directory(entry, place, replaced)

    def _directory_over(self, place: _Place) -> bool:
        """Something has the directory's name already: keep a directory, replace anything else. True when kept."""
        found = os.stat(place.name, dir_fd=place.at, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return True
        self._tree.remove(place.at, place.name, place.real, found.st_mode)
        os.mkdir(place.name, 0o700, dir_fd=place.at)
        if self._tree.is_whiteout(found):
            self._tree.make_opaque(place.at, place.name)
        return False

    def _describe_directory(self, entry: Entry, place: _Place, replaced: bool) -> None:
        path = at_path(place.at, place.name)
        if self._ownership.keep:
            os.chown(place.name, *self._ownership.owner(entry.uid, entry.gid), dir_fd=place.at, follow_symlinks=False)
        if replaced:
            for name in os.listxattr(path, follow_symlinks=False):
                if name != self._opaque and not name.startswith("security.selinux"):
                    os.removexattr(path, name, follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(entry, path)
        if place.real not in self._directories:
            self._tree.hold(place.real)
        self._directories[place.real] = _Later(entry.mode, _times(entry))

    def _finish_directory(self, real: bytes, later: _Later) -> None:
        above, _, name = real.rpartition(b"/")
        try:
            fd = os.open(name or b".", _READ_DIR, dir_fd=self._tree.open_real(above))
        except (FileNotFoundError, NotADirectoryError):
            return  # a later entry took its place; with O_NOFOLLOW a symlink is ENOTDIR here
        try:
            os.fchmod(fd, later.mode)
            os.utime(fd, ns=later.times)
        finally:
            os.close(fd)

    def _symlink(self, entry: Entry, place: _Place) -> None:
        try:
            os.symlink(entry.link, place.name, dir_fd=place.at)
        except FileExistsError:
            self._clear(place)
            os.symlink(entry.link, place.name, dir_fd=place.at)
        self._describe(entry, place)

    def _node(self, entry: Entry, place: _Place) -> None:
        if entry.kind is not tar.FIFO:
            self._check_device(entry)
        device = os.makedev(entry.major, entry.minor)
        mode = _NODES[entry.kind] | 0o600
        try:
            os.mknod(place.name, mode, device, dir_fd=place.at)
        except FileExistsError:
            self._clear(place)
            os.mknod(place.name, mode, device, dir_fd=place.at)
        self._describe(entry, place)
        # chmod follows symlinks, but this name was just made by us as something else
        os.chmod(place.name, entry.mode, dir_fd=place.at)
        os.utime(place.name, ns=_times(entry), dir_fd=place.at, follow_symlinks=False)

    def _check_device(self, entry: Entry) -> None:
        if not self._limits.devices:
            raise PermissionDenied(f"a {entry.kind} is not allowed here")
        if entry.major >= 1 << 12 or entry.minor >= 1 << 20:
            raise InvalidArgument(f"device number {entry.major}:{entry.minor} is out of range")
        if self._overlay and entry.kind is tar.CHAR and not (entry.major or entry.minor):
            raise InvalidArgument("character device 0:0 is overlayfs' own mark for a deletion")

    def _describe(self, entry: Entry, place: _Place) -> None:
        """Owner, attributes and times of what has no descriptor."""
        if self._ownership.keep:
            owner = self._ownership.owner(entry.uid, entry.gid)
            os.chown(place.name, *owner, dir_fd=place.at, follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(entry, at_path(place.at, place.name))
        os.utime(place.name, ns=_times(entry), dir_fd=place.at, follow_symlinks=False)

    def _hardlink(self, entry: Entry, place: _Place) -> None:
        above, name = clean(entry.link, self._limits.max_depth)
        at = os.dup(place.at)  # looking up the target may close it
        try:
            self._link(entry, _Place(at, place.name, place.real), above, name)
        finally:
            os.close(at)

    def _link(self, entry: Entry, place: _Place, above: bytes, name: bytes) -> None:
        missing = InvalidArgument(f"hard link target {shown(entry.link)} is not in this layer")
        try:
            source, real = self._tree.parent(above, create=False)
            found = os.stat(name or b".", dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            raise missing from None
        if stat.S_ISDIR(found.st_mode):
            raise InvalidArgument(f"hard link target {shown(entry.link)} is a directory")
        if self._tree.is_whiteout(found):
            raise missing
        if (real + b"/" + name if real else name) == place.real:
            raise InvalidArgument("hard link to itself")
        try:
            os.link(name, place.name, src_dir_fd=source, dst_dir_fd=place.at, follow_symlinks=False)
        except FileExistsError:
            self._replace_with_link(place, above, name, found)

    def _replace_with_link(self, place: _Place, above: bytes, name: bytes, found: os.stat_result) -> None:
        there = os.stat(place.name, dir_fd=place.at, follow_symlinks=False)
        if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
            return  # the same link twice
        self._tree.remove(place.at, place.name, place.real, there.st_mode)
        source, _ = self._tree.parent(above, create=False)
        os.link(name, place.name, src_dir_fd=source, dst_dir_fd=place.at, follow_symlinks=False)

    # attributes

    def _set_xattrs(self, entry: Entry, target: int | bytes) -> None:
        for name, value in entry.xattrs:
            if name.startswith(_FOREIGN_XATTRS):
                continue
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                self._xattr_failed(entry, name, error)

    def _xattr_failed(self, entry: Entry, name: bytes, error: OSError) -> None:
        """What the file system, or the lack of privilege, can't hold is reported, not fatal: containerd and Docker
        unpack such layers too, and a user attribute on a symlink is something the kernel never allows."""
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise error
        if len(self.warnings) < _MAX_WARNINGS:
            text = os.strerror(error.errno or 0).lower()
            self.warnings.append(f"layer entry {shown(entry.path)}: attribute {shown(name)} is lost: {text}")


_WRITERS: dict[tar.Kind, Callable[[Unpacker, Entry, _Place], None]] = {
    tar.FILE: Unpacker._file_entry,
    tar.DIRECTORY: Unpacker._directory,
    tar.SYMLINK: Unpacker._symlink,
    tar.HARDLINK: Unpacker._hardlink,
    tar.CHAR: Unpacker._node,
    tar.BLOCKDEV: Unpacker._node,
    tar.FIFO: Unpacker._node,
}


def clean(path: bytes, max_depth: int) -> tuple[bytes, bytes]:
    """(parent, last component) of an archive's path, relative to the root: `/`, `./` and doubled slashes go. Both are
    empty for the root itself. `..` is refused: no layer needs it, and it only ever was an attack."""
    parts = [part for part in path.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise InvalidArgument("path has '..'")
    if len(parts) > max_depth:
        raise ResourceExhausted(f"path is deeper than the limit of {max_depth} directories")
    return (b"/".join(parts[:-1]), parts[-1]) if parts else (b"", b"")


def _write(fd: int, data: memoryview | bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):  # a signal or a full disk cut it short; the next call says which
        done += os.write(fd, data[done:])


def _times(entry: Entry) -> tuple[int, int]:
    return (entry.mtime_ns if entry.atime_ns is None else entry.atime_ns), entry.mtime_ns


def _named(error: Exception, path: bytes) -> OrlopError:
    """The error with the entry's name before it."""
    doing = f"layer entry {shown(path)}"
    if isinstance(error, OrlopError):
        return type(error)(f"{doing}: {error}")
    if not isinstance(error, OSError):
        return InvalidArgument(f"{doing}: a number is out of range")
    text = os.strerror(error.errno or 0).lower()
    if error.errno in _INVALID:
        return InvalidArgument(f"{doing}: {text}")
    if error.errno in _TOO_BIG:
        return ResourceExhausted(f"{doing}: {text}")
    return from_os(OSError(error.errno, text), doing)
