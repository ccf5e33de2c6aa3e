"""Namespaces by the specification's names (config-linux.md, "Namespaces"; namespaces(7)). Pure."""

from __future__ import annotations

import msgspec

from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import Linux

NSFS_MAGIC = 0x6E736673

# name: flag of clone(2), setns(2) and unshare(2)
FLAGS: dict[str, int] = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}
# name: file in /proc/PID/ns
FILES: dict[str, str] = {name: name for name in FLAGS} | {"mount": "mnt", "network": "net"}


class Namespaces(msgspec.Struct, frozen=True):
    """The namespaces of a container: those to be made, and those to be joined with their paths, in no order."""

    new: frozenset[str] = frozenset()
    joined: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.new or name in self.joined

    @property
    def flags(self) -> int:
        """All of them as a mask, to join them by a pidfd of the container."""
        return flags((*self.new, *self.joined))


def flags(names: tuple[str, ...] | frozenset[str]) -> int:
    """The mask of these namespaces."""
    mask = 0
    for name in names:
        mask |= FLAGS[name]
    return mask


def namespaces(linux: Linux) -> Namespaces:
    """The checked namespaces of a configuration."""
    new: set[str] = set()
    joined: dict[str, str] = {}
    for index, namespace in enumerate(linux.namespaces):
        where = f"linux.namespaces[{index}]"
        if namespace.type not in FLAGS:
            raise InvalidArgument(f"{where}.type: unknown namespace type {namespace.type[:64]!r}")
        if namespace.type in new or namespace.type in joined:
            raise InvalidArgument(f"{where}.type: {namespace.type} is there twice")
        if namespace.path:
            if not namespace.path.startswith("/") or "\0" in namespace.path:
                raise InvalidArgument(f"{where}.path: {namespace.path[:128]!r} is not an absolute path")
            joined[namespace.type] = namespace.path
        else:
            new.add(namespace.type)
    return Namespaces(frozenset(new), joined)
