"""Perform a snapshot's mounts without attaching them anywhere: the result is a descriptor, and nothing on the host
can leak.

The launch helper attaches the descriptor inside the container's mount namespace with move_mount(2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orlop.snapshots.mounts import Bind, Mount, Overlay, classic
from orlop.spec.errors import InvalidArgument, from_os
from orlop.sys import mounts as sys

_LONGEST = 255  # bytes of one fsconfig(2) string
_SCRATCH = ".mount"  # beside the snapshots, for the moment of a classic mount
_PAGE = 4095  # bytes of mount(2)'s options
# What fsconfig says where the kernel does not know `lowerdir+` (before 6.7), or fsopen itself, or overlay's new form.
_TOO_OLD = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def detached(mounts: tuple[Mount, ...], user_namespace: int = -1) -> int:
    """A descriptor of the detached mount that `mounts` (just one, from a snapshotter) describes. The caller closes
    it; the mount lives as long as the descriptor or a place where it was attached.

    With the descriptor of a user namespace, the ids of the files are those of that namespace: root's belong to its
    root. An overlay itself can't be mapped so, but what it stands on can: its upper directory has the owners that are
    seen through the mount.
    """
    if len(mounts) != 1:
        raise InvalidArgument(f"snapshot has {len(mounts)} mounts, want one")
    (mount,) = mounts
    try:
        if isinstance(mount, Bind):
            return _bind(mount, user_namespace)
        return _overlay(mount) if user_namespace < 0 else _overlay_mapped(mount, user_namespace)
    except OSError as error:
        raise from_os(error, f"mount snapshot ({mount})"[:600]) from error


def _bind(mount: Bind, user_namespace: int) -> int:
    fd = sys.open_tree(mount.source, sys.OPEN_TREE_CLONE)
    try:
        if user_namespace >= 0:
            _map_ids(fd, user_namespace)
        if mount.read_only:
            _make_read_only(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _overlay(mount: Overlay) -> int:
    with _short_names(mount) as short:
        try:
            return _overlay_by_fsopen(short)
        except OSError as error:
            if error.errno not in _TOO_OLD:
                raise
        return overlay_by_mount(mount)


def _overlay_mapped(mount: Overlay, user_namespace: int) -> int:
    """The overlay over copies of its lower directories' mounts, whose ids are mapped.

    Since Linux 6.15 such a copy can stand below while it is attached nowhere; before, it must be mounted for the
    moment in which the overlay is made, which takes a copy of its own.
    """
    with ExitStack() as stack:
        lower = tuple(_mapped_lower(path, user_namespace, stack) for path in mount.lower)
        upper, work = mount.upper, mount.work
        if mount.upper and any(len(os.fsencode(p)) > _LONGEST or set(p) & set("\\,:") for p in (upper, work)):
            upper, work = (_short(path, stack) for path in (upper, work))
        try:
            names = tuple(f"/proc/self/fd/{fd}" for fd in lower)
            return _overlay_by_fsopen(Overlay(names, upper, work, mount.options))
        except OSError as error:
            if error.errno not in _TOO_OLD:
                raise
        scratch = _scratch_of(mount)
        names = tuple(_attached(fd, scratch, stack) for fd in lower)
        return overlay_by_mount(Overlay(names, upper, work, mount.options), scratch)


def _mapped_lower(path: str, user_namespace: int, stack: ExitStack) -> int:
    fd = sys.open_tree(path, sys.OPEN_TREE_CLONE)
    stack.callback(os.close, fd)
    _map_ids(fd, user_namespace)
    return fd


def _short(path: str, stack: ExitStack) -> str:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def _attached(fd: int, scratch: str, stack: ExitStack) -> str:
    target = os.path.join(scratch, f"{os.getpid()}-{fd}-lower")
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    os.mkdir(target, 0o700)
    stack.callback(os.rmdir, target)
    sys.move_mount(fd, target)
    stack.callback(sys.umount, target, sys.MNT_DETACH)
    return target


def _map_ids(fd: int, user_namespace: int) -> None:
    try:
        sys.mount_setattr(fd, sys.MOUNT_ATTR_IDMAP, user_namespace=user_namespace)
    except OSError as error:
        if error.errno == errno.EINVAL:  # says no more than that
            text = "the file system's mounts can't have their ids mapped, as a user namespace needs it"
            raise OSError(errno.EINVAL, text, "mount_setattr") from None
        raise


def _overlay_by_fsopen(mount: Overlay) -> int:
    fd = sys.fsopen("overlay")
    try:
        sys.fsconfig_string(fd, "source", "overlay")
        for path in mount.lower:
            sys.fsconfig_string(fd, "lowerdir+", path)
        if mount.upper:
            sys.fsconfig_string(fd, "upperdir", mount.upper)
            sys.fsconfig_string(fd, "workdir", mount.work)
        for option in mount.options:
            key, equals, value = option.partition("=")
            sys.fsconfig_string(fd, key, value) if equals else sys.fsconfig_flag(fd, key)
        sys.fsconfig_create(fd)
        return sys.fsmount(fd, sys.MOUNT_ATTR_RDONLY if mount.read_only else 0)
    finally:
        os.close(fd)


def _scratch_of(mount: Overlay) -> str:
    return os.path.join(os.path.dirname(os.path.dirname(mount.upper or mount.lower[0])), _SCRATCH)


def overlay_by_mount(mount: Overlay, scratch: str = "") -> int:
    """For older kernels: attach the overlay to a private directory, take it off with open_tree(2), detach it.

    The mount is visible on the host for that moment; what a process that dies within it leaves there, `sweep_scratch`
    takes off. Layer paths go through /proc/self/fd where they would overflow the page that
    mount(2) allows for options.
    """
    scratch = scratch or _scratch_of(mount)
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    target = os.path.join(scratch, f"{os.getpid()}-{id(mount):x}")
    os.mkdir(target, 0o700)
    try:
        with _numbered(mount) as short:
            options = ",".join(classic(short).options)
            sys.mount("overlay", target, "overlay", sys.MS_RDONLY if mount.read_only else 0, options)
        try:
            return sys.open_tree(target, sys.OPEN_TREE_CLONE)
        finally:
            sys.umount(target, sys.MNT_DETACH)
    finally:
        os.rmdir(target)


def sweep_scratch(root: Path) -> None:
    """Take off what processes that were killed within `overlay_by_mount` left mounted under `root`."""
    try:
        names = os.listdir(root / _SCRATCH)
    except FileNotFoundError:
        return
    for name in names:
        if os.path.exists(f"/proc/{name.partition('-')[0]}"):
            continue
        target = str(root / _SCRATCH / name)
        try:
            sys.umount(target, sys.MNT_DETACH)
        except OSError as error:
            if error.errno != errno.EINVAL:  # is not mounted
                raise
        os.rmdir(target)


def _make_read_only(fd: int) -> None:
    try:
        sys.mount_setattr(fd, sys.MOUNT_ATTR_RDONLY)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # mount_setattr(2) is of Linux 5.12
            raise
        raise OSError(errno.ENOSYS, "a read-only bind mount without a path needs Linux 5.12", "mount_setattr") from None


@contextmanager
def _short_names(mount: Overlay) -> Iterator[Overlay]:
    """The mount as fsconfig takes it: paths that are too long, or hold what overlayfs unescapes, by descriptor."""
    awkward = any(len(os.fsencode(p)) > _LONGEST or set(p) & set("\\,:") for p in (*mount.lower, mount.upper))
    if not awkward:
        yield mount
        return
    with _by_descriptor(mount) as short:
        yield short


@contextmanager
def _numbered(mount: Overlay) -> Iterator[Overlay]:
    """The mount with options that fit into a page."""
    if len(os.fsencode(",".join(classic(mount).options))) <= _PAGE:
        yield mount
        return
    with _by_descriptor(mount) as short:
        yield short


@contextmanager
def _by_descriptor(mount: Overlay) -> Iterator[Overlay]:
    opened: list[int] = []

    def short(path: str) -> str:
        opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return f"/proc/self/fd/{opened[-1]}"

    try:
        lower = tuple(short(path) for path in mount.lower)
        writable = (short(mount.upper), short(mount.work)) if mount.upper else ("", "")
        yield Overlay(lower, *writable, mount.options)
    finally:
        for fd in opened:
            os.close(fd)
