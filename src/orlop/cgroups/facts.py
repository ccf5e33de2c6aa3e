"""Where control groups are on a host, and where a container's are among them. Pure: read from text handed in.

A *hierarchy* is one mounted tree of groups; cgroup v1 has one for each controller (or a few together), v2 has one for
all. A *group* of ours is the same path in every hierarchy.
"""

from __future__ import annotations

import msgspec

from orlop.spec.errors import FailedPrecondition, InvalidArgument

ROOT = "/orlop"  # nothing outside of it is made, unless a configuration names an absolute path

# what has an effect by being mounted on v1; `name=systemd` and the like only hold processes together
V1_CONTROLLERS = frozenset(
    "cpu cpuacct cpuset memory devices freezer blkio pids hugetlb net_cls net_prio perf_event rdma misc".split()
)


class CgroupHost(msgspec.Struct, frozen=True, kw_only=True):
    """The hierarchies of a host.

    `mode` is v1, hybrid (v1 controllers and a v2 tree beside them) or v2. `mounts` maps every v1 controller, and named
    hierarchies such as `name=systemd`, to its mount point; `unified` is the mount point of v2, or empty.
    `controllers` are those that can limit something here, `withheld` those that could if this user had rights to them.
    """

    mode: str
    mounts: dict[str, str]
    unified: str = ""
    controllers: frozenset[str] = frozenset()
    withheld: frozenset[str] = frozenset()

    def mount(self, controller: str) -> str:
        """The mount point for a controller's files; the controller `unified` is v2's own files."""
        if self.mode == "v2" or controller == "unified":
            return self.unified
        return self.mounts[controller]


def points(host: CgroupHost) -> tuple[str, ...]:
    """The mount point of each hierarchy, once where controllers share one; v2 last."""
    return tuple(point for point in dict.fromkeys((*host.mounts.values(), host.unified)) if point)


def without(host: CgroupHost, denied: frozenset[str], device_rules: bool = False) -> CgroupHost:
    """The host as far as this user has rights to it: not to the hierarchies mounted at `denied`, nor as a rule to set
    which devices may be used, which takes root's (CAP_SYS_ADMIN)."""
    mounts = {name: point for name, point in host.mounts.items() if point not in denied}
    unified = "" if host.unified in denied else host.unified
    held = host.controllers & frozenset(mounts)
    if host.mode == "v2":
        held = host.controllers if unified else frozenset[str]()
    held -= frozenset[str]() if device_rules else {"devices"}
    return msgspec.structs.replace(
        host, mounts=mounts, unified=unified, controllers=held, withheld=host.controllers - held
    )


_NOWHERE = "/.no group/."  # nothing is ever there


class Group(msgspec.Struct, frozen=True):
    """One path in every hierarchy of a host. An empty path is no group: it has no directories, and what is asked of it
    is not there. It never stands for the roots of the hierarchies."""

    host: CgroupHost
    path: str

    @property
    def directories(self) -> tuple[str, ...]:
        """The group's directory in each hierarchy, once where controllers share one; v2 last."""
        return tuple(point + self.path for point in points(self.host) if self.path)

    @property
    def procs_paths(self) -> tuple[str, ...]:
        """The `cgroup.procs` files that a process must be written to in order to be wholly in the group."""
        return tuple(directory + "/cgroup.procs" for directory in self.directories)

    def directory(self, controller: str) -> str:
        return self.host.mount(controller) + (self.path or _NOWHERE)

    def has(self, controller: str) -> bool:
        return controller in self.host.controllers

    @property
    def tracker(self) -> str:
        """The directory that tells best which processes are in the group.

        Of the v1 hierarchies that is `pids` or `devices`, which nothing else moves processes about in.
        """
        if self.host.mode == "v2":
            return self.directory("unified")
        mounts = self.host.mounts
        found = next((name for name in ("pids", "devices", "freezer", "memory") if name in mounts), None)
        return self.directory(found or next(iter(mounts), "unified"))


def parse_mountinfo(text: str, v2_controllers: frozenset[str] = frozenset()) -> CgroupHost:
    """Read `/proc/self/mountinfo` (proc_pid_mountinfo(5)). `v2_controllers` is the content of the v2 root's
    `cgroup.controllers`. Raises FailedPrecondition where no control groups are mounted."""
    mounts: dict[str, str] = {}
    unified = ""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(rest) < 3:
            continue
        point = unescape(fields[4])
        if rest[0] == "cgroup2":
            unified = unified or point
        elif rest[0] == "cgroup":
            for name in rest[2].split(","):
                if name in V1_CONTROLLERS or name.startswith("name="):
                    mounts.setdefault(name, point)
    if not mounts and not unified:
        raise FailedPrecondition("no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup")
    if not mounts:
        # devices and freezer are part of v2 itself: a program, and a file of every group
        return CgroupHost(
            mode="v2", mounts={}, unified=unified, controllers=v2_controllers | {"devices", "freezer", "unified"}
        )
    available = frozenset(name for name in mounts if name in V1_CONTROLLERS)
    return CgroupHost(mode="hybrid" if unified else "v1", mounts=mounts, unified=unified, controllers=available)


def unified_mount(text: str) -> str:
    """The mount point of cgroup v2 in a `/proc/self/mountinfo`, or an empty string."""
    return next(
        (unescape(line.split(" ")[4]) for line in text.splitlines() if " - cgroup2 " in line),
        "",
    )


def unescape(path: str) -> str:
    """A path as mountinfo writes it, which has blanks and the like in octal."""
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(escape, character)
    return path


def group_path(cgroups_path: str, identifier: str, above: str = "") -> str:
    """The group of a container (config-linux.md, "Cgroups Path"): an absolute path is one from the mount point of each
    hierarchy, a relative one starts at `/orlop`, and none at all means `/orlop/<identifier>`; these two below the group
    `above`."""
    if not cgroups_path:
        return f"{above}{ROOT}/{identifier}"
    where = f"linux.cgroupsPath: {cgroups_path[:128]!r}"
    parts = [part for part in cgroups_path.split("/") if part not in ("", ".")]
    if ".." in parts or any(character < " " or character == "\x7f" for character in cgroups_path):
        raise InvalidArgument(f"{where}: must not have '..' or control characters in it")
    if any(len(part) > 255 for part in parts):
        raise InvalidArgument(f"{where}: a name is longer than 255 characters")
    if not parts:
        raise InvalidArgument(f"{where}: is the root of the hierarchy; name a group below it")
    absolute = cgroups_path.startswith("/")
    return "/" + "/".join(parts) if absolute else f"{above}{ROOT}/" + "/".join(parts)
