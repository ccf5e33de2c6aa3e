"""The standard streams that a container's process inherits."""

from __future__ import annotations

import errno
import os
import stat

from orlop.spec.runtime import IDMapping, Linux, User

_HARMLESS = (errno.EPERM, errno.EINVAL, errno.EROFS, errno.ENOSYS, errno.EBADF)


def host_id(identifier: int, mappings: tuple[IDMapping, ...]) -> int:
    """The host's number of an id of the container; an id that is not mapped stays itself."""
    for mapping in mappings:
        if mapping.container_id <= identifier < mapping.container_id + mapping.size:
            return mapping.host_id + identifier - mapping.container_id
    return identifier


def own_streams(user: User, linux: Linux) -> None:
    """Give the standard streams to the process's user and group, who could otherwise not open /dev/stdout again.

    /dev/null is everybody's and left alone, and a terminal keeps its group, which is that of write(1); where the owner
    can't be changed, nothing is lost but this.
    """
    owner, group = host_id(user.uid, linux.uid_mappings), host_id(user.gid, linux.gid_mappings)
    if owner == os.geteuid():
        return
    null = os.stat(os.devnull)
    for fd in (0, 1, 2):
        try:
            found = os.fstat(fd)
            if found.st_uid != owner and found.st_rdev != null.st_rdev:
                os.fchown(fd, owner, -1 if stat.S_ISCHR(found.st_mode) else group)
        except OSError as error:
            if error.errno not in _HARMLESS:
                raise


def stream_names() -> tuple[str, ...]:
    """The standard streams as /proc/PID/fd has them: a path, `pipe:[1]`, `socket:[1]`; a closed one is empty."""
    return tuple(_name(fd) for fd in (0, 1, 2))


def _name(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def null_streams() -> tuple[int, ...]:
    """Those standard streams that are the null device."""
    null = os.stat(os.devnull).st_rdev
    return tuple(fd for fd in (0, 1, 2) if _device(fd) == null)


def _device(fd: int) -> int:
    try:
        return os.fstat(fd).st_rdev
    except OSError:
        return 0
