"""Which descriptor slot of the launch helper holds what, and the numbers that several compilers share. Pure."""

from __future__ import annotations

import msgspec

SLOTS = 64  # as the helper has them
MOST_MADE = 8  # of them, from the last one down, are for devices that are made outside of a user namespace
NONE = -1  # no slot; as a directory: the process's own view

O_WRONLY, O_RDWR, O_CREAT, O_NOCTTY, O_TRUNC = 0o1, 0o2, 0o100, 0o400, 0o1000
O_DIRECTORY, O_NOFOLLOW, O_CLOEXEC, O_PATH = 0o200000, 0o400000, 0o2000000, 0o10000000
OPEN_TREE_CLONE = 1
AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_RECURSIVE = 0x100, 0x1000, 0x8000
PROC_MAGIC, CGROUP_MAGIC, CGROUP2_MAGIC, SYSFS_MAGIC = 0x9FA0, 0x27E0EB, 0x63677270, 0x62656572


class Layout(msgspec.Struct, frozen=True):
    """Slots of a plan. `first` is the lowest that nothing else has; `TREE` and `FILE` are filled again and again."""

    root: int
    first: int

    @property
    def tree(self) -> int:
        return self.first

    @property
    def file(self) -> int:
        return self.first + 1

    @property
    def null(self) -> int:
        return self.first + 2

    @property
    def master(self) -> int:
        return self.first + 3

    @property
    def slave(self) -> int:
        return self.first + 4

    @property
    def tty(self) -> int:
        return self.first + 5

    @property
    def listener(self) -> int:
        return self.first + 6

    @property
    def cgroup(self) -> int:
        """The v2 control group that the container's process is born in."""
        return self.first + 7

    @property
    def namespaces(self) -> int:
        """The first of eight for namespaces to join."""
        return self.first + 8

    @property
    def sources(self) -> int:
        """The first of those for mounts that are opened before the container's namespaces are entered."""
        return self.first + 16


def layout(root: int | None, *taken: int | None) -> Layout:
    """Slots above all that are `taken`; `root` is where the root file system comes from, if it is handed in."""
    used = [slot for slot in (root, *taken) if slot is not None]
    first = max(used, default=-1) + 1
    return Layout(root=first if root is None else root, first=first + (root is None))
