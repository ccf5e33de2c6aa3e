"""A directory tree that hostile entries can't leave.

Every path is walked component by component from the root's descriptor with O_NOFOLLOW; symlinks are read and followed
here, where `/` and `..` stop at the root. No path string ever reaches the kernel with more than one component, so
there is nothing to race or to smuggle. Open parents are cached, because entries come sorted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from types import TracebackType

from orlop.spec.errors import InvalidArgument, ResourceExhausted

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_CACHED = 128
_MAX_NAMED = 4096
_MAX_SYMLINKS = 40  # as the kernel's MAXSYMLINKS


class Tree:
    """The tree below one directory. `implied` collects directories made because an entry needed a parent."""

    def __init__(
        self,
        root: int,
        opaque: str = "",
        owner: tuple[int, int] | None = None,
        max_depth: int = 256,
        max_names: int = 64 << 20,
    ) -> None:
        """`root`: a descriptor of the directory, which stays the caller's. `opaque`: the attribute that marks a
        directory as hiding those below, on overlayfs. `owner`: of implied directories, when not the caller."""
        self.root = root
        self._opaque = opaque
        self._owner = owner
        self._max_depth = max_depth
        self._max_names = max_names
        self._held = 0
        self.implied: dict[bytes, None] = {}
        self._real: dict[bytes, int] = {}  # real path (no symlink in it): descriptor
        self._named: dict[bytes, bytes] = {}  # path as an archive spells it: real path

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()

    def forget(self) -> None:
        """Close all cached descriptors."""
        for fd in self._real.values():
            os.close(fd)
        self._real.clear()
        self._named.clear()

    def forget_below(self, real: bytes) -> None:
        """The directory or symlink at `real` is gone: drop what led through it, keep other descriptors open."""
        inside = real + b"/"
        for path in [path for path in self._real if path == real or path.startswith(inside)]:
            os.close(self._real.pop(path))
        self._named.clear()

    def parent(self, path: bytes, *, create: bool) -> tuple[int, bytes]:
        """(descriptor, real path) of the directory at `path`, which is clean ("" is the root); symlinks inside the
        tree are followed. Missing directories are made when `create`, else FileNotFoundError.

        The descriptor is valid until the next call of any method.
        """
        real = self._named.get(path)
        if real is None:
            real = self._resolve(path, create)
            if len(self._named) >= _MAX_NAMED:
                self._named.clear()
            self._named[path] = real
        return self.open_real(real), real

    def open_real(self, real: bytes) -> int:
        """A descriptor (O_PATH) of the directory at a path without symlinks; ENOTDIR or ELOOP when it isn't one."""
        if not real:
            return self.root
        fd = self._real.get(real)
        if fd is None:
            above, _, name = real.rpartition(b"/")
            at = self.open_real(above)
            if len(self._real) >= _MAX_CACHED:
                fd = os.open(name, _OPEN_DIR, dir_fd=at)
                keep = self._named.copy()
                self.forget()
                self._named = keep
            else:
                fd = os.open(name, _OPEN_DIR, dir_fd=at)
            self._real[real] = fd
        return fd

    def _resolve(self, path: bytes, create: bool) -> bytes:
        """The real path of the directory `path`: readlink by readlink, `..` taken off a path that holds no symlink."""
        real: list[bytes] = []
        todo = deque(path.split(b"/"))
        links = 0
        while todo:
            name = todo.popleft()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del real[-1:]
                continue
            target = self._step(real, name, create)
            if target is None:
                real.append(name)
                if len(real) > self._max_depth:  # symlinks can make a path deeper than any entry's
                    raise ResourceExhausted(f"path is deeper than the limit of {self._max_depth} directories")
                continue
            links += 1
            if links > _MAX_SYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith(b"/"):
                real.clear()
            todo.extendleft(reversed(target.split(b"/")))
        return b"/".join(real)

    def _step(self, real: list[bytes], name: bytes, create: bool) -> bytes | None:
        """None when `name` below `real` is a directory now, else the target of the symlink that it is."""
        above = b"/".join(real)
        here = b"/".join((*real, name))
        if here in self._real:
            return None
        at = self.open_real(above)
        found = stat_or_none(at, name)
        if found is not None and stat.S_ISLNK(found.st_mode):
            return os.readlink(name, dir_fd=at)
        if found is not None and stat.S_ISDIR(found.st_mode):
            return None
        if not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        hidden = found is not None and self.is_whiteout(found)
        if found is not None and not hidden:
            raise InvalidArgument(f"its parent {shown(here)} is not a directory")
        if hidden:
            os.unlink(name, dir_fd=at)
        os.mkdir(name, 0o755, dir_fd=at)
        os.chmod(name, 0o755, dir_fd=at)  # whatever the umask; nothing follows a symlink here, we just made it
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=at, follow_symlinks=False)
        self.hold(here)
        self.implied[here] = None
        if hidden:
            self.make_opaque(at, name)
        return None

    def hold(self, real: bytes) -> None:
        """Account for a path that is kept in memory until the end."""
        self._held += len(real) + 100  # and about what its objects cost
        if self._held > self._max_names:
            raise ResourceExhausted(f"names of directories take more than the limit of {self._max_names} bytes")

    def is_whiteout(self, found: os.stat_result) -> bool:
        """Whether this is overlayfs' mark for a deleted name, in a tree that uses such marks."""
        return bool(self._opaque) and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0

    def make_opaque(self, at: int, name: bytes) -> None:
        """Mark the directory `name` below `at` as hiding what lower layers have in its place."""
        os.setxattr(at_path(at, name), self._opaque, b"y", follow_symlinks=False)

    def remove(self, at: int, name: bytes, real: bytes, mode: int) -> None:
        """Remove `name` below the descriptor `at`, with all that is in it. `real` is its path, `mode` what it is."""
        if stat.S_ISDIR(mode):
            empty(at, name)
            os.rmdir(name, dir_fd=at)
        else:
            os.unlink(name, dir_fd=at)
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            self.forget_below(real)


def empty(at: int, name: bytes) -> None:
    """Remove everything in the directory `name` below `at`, never following a symlink."""
    fd = os.open(name, _READ_DIR, dir_fd=at)
    try:
        for child in names_in(fd):
            try:
                os.unlink(child, dir_fd=fd)
            except (IsADirectoryError, PermissionError):  # Linux says EISDIR, POSIX EPERM
                empty(fd, child)
                os.rmdir(child, dir_fd=fd)
    finally:
        os.close(fd)


def names_in(fd: int) -> list[bytes]:
    """The names in an open directory."""
    return [os.fsencode(name) for name in os.listdir(fd)]


def stat_or_none(at: int, name: bytes) -> os.stat_result | None:
    """What `name` below `at` is, itself, or None."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    return None


def shown(path: bytes) -> str:
    """A hostile path for a message: quoted, escaped, bounded."""
    return repr(os.fsdecode(path[:160]) + ("..." if len(path) > 160 else ""))


def at_path(at: int, name: bytes) -> bytes:
    """A path that means `name` below the descriptor `at`, for the calls that take no descriptor (xattrs). Only the
    last component is not followed by those; the rest is a magic link to the very directory."""
    return b"/proc/self/fd/%d/%s" % (at, name)
