"""Mount system calls, old and new; one thin function per call (fsopen(2), fsconfig(2), fsmount(2), open_tree(2),
move_mount(2), mount_setattr(2), mount(2), umount2(2)). Every descriptor is close-on-exec.
"""

from __future__ import annotations

import ctypes
import os

from orlop.sys.syscalls import libc, syscall

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
UMOUNT_NOFOLLOW = 8
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_IDMAP = 0x100000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442


def fsopen(kind: str) -> int:
    """A descriptor to configure a file system of this kind."""
    return syscall("fsopen", _FSOPEN, kind.encode(), FSOPEN_CLOEXEC)


def fsconfig_string(fd: int, key: str, value: str) -> None:
    """Set `key=value`. The kernel takes at most 255 bytes of value."""
    syscall("fsconfig", _FSCONFIG, fd, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)


def fsconfig_flag(fd: int, key: str) -> None:
    syscall("fsconfig", _FSCONFIG, fd, FSCONFIG_SET_FLAG, key.encode(), None, 0)


def fsconfig_create(fd: int) -> None:
    """Make the superblock from what has been set."""
    syscall("fsconfig", _FSCONFIG, fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of the file system that was configured on `fd`."""
    return syscall("fsmount", _FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes)


def fsmessages(fd: int) -> str:
    """What the kernel has to say about a failed fsconfig or fsmount: its log lines, joined."""
    lines = []
    try:
        while line := os.read(fd, 1024):
            lines.append(line.decode(errors="replace").strip())
    except OSError:  # ENODATA: no more
        pass
    return "; ".join(lines)


def open_tree(path: str, flags: int = OPEN_TREE_CLONE, at: int = AT_FDCWD) -> int:
    """With OPEN_TREE_CLONE: a detached copy of the mount at `path`; with AT_RECURSIVE also those beneath."""
    return syscall("open_tree", _OPEN_TREE, at, os.fsencode(path), flags | OPEN_TREE_CLOEXEC)


def move_mount(fd: int, target: str) -> None:
    """Attach the detached mount `fd` at `target`."""
    syscall("move_mount", _MOVE_MOUNT, fd, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)


def mount_setattr(fd: int, set_: int, clear: int = 0, user_namespace: int = 0, recursive: bool = False) -> None:
    """Change attributes of the mount `fd` (struct mount_attr: attr_set, attr_clr, propagation, userns_fd)."""
    attributes = (ctypes.c_uint64 * 4)(set_, clear, 0, user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    pointer = ctypes.cast(attributes, ctypes.c_void_p)
    syscall("mount_setattr", _MOUNT_SETATTR, fd, b"", flags, pointer, ctypes.sizeof(attributes))


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """The classic call; `data` holds at most a page."""
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(data) or None)
    libc("mount", *arguments)


def umount(target: str, flags: int = 0) -> None:
    libc("umount2", os.fsencode(target), flags)
