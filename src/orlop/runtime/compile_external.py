"""Which mounts of a container come from the host, for CRIU: it can make all others anew, but not those. Pure.

On a dump each of them is named by where it stands in the container (read from its mountinfo, so that no link of the
container is followed) and gets a key; on a restore each key gets a path of the host. Keys are destinations as the
configuration has them: a restored container may have another configuration, whose mounts stand in another order.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

import msgspec

from orlop.cgroups.facts import CgroupHost
from orlop.runtime.compile_devices import DEFAULTS
from orlop.runtime.compile_layout import layout
from orlop.runtime.compile_mounts import Prepared, clean, hierarchies, idmap_of, mounted_before, prepare
from orlop.runtime.mount_options import MS_REC
from orlop.runtime.namespaces import Namespaces, namespaces
from orlop.spec.errors import FailedPrecondition
from orlop.spec.runtime import Linux, RuntimeSpec

_NULL = "/dev/null"
# namespaces that CRIU leaves alone and finds again by a key, with its own words for them
EXTERNAL: dict[str, tuple[str, str]] = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
# namespaces that a restored container can join, by CRIU's names
JOINED: dict[str, str] = {"ipc": "ipc", "uts": "uts", "user": "user", "time": "time"}


class MountPoint(msgspec.Struct, frozen=True):
    """A line of mountinfo (proc_pid_mountinfo(5)): `root` is what of the file system is mounted, `path` where."""

    id: int
    parent: int
    root: str
    path: str
    type: str


def parse_mountinfo(text: str) -> tuple[MountPoint, ...]:
    """The mounts of a namespace, in their order."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) >= 6 and rest:
            found.append(
                MountPoint(int(fields[0]), int(fields[1]), _unescape(fields[3]), _unescape(fields[4]), rest[0])
            )
    return tuple(found)


def _unescape(text: str) -> str:
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, character)
    return text


def mounts(spec: RuntimeSpec, bundle: str) -> tuple[Prepared, ...]:
    """The mounts of a configuration, sorted out. Raises for those that a checkpoint would lose."""
    for index in range(len(spec.mounts)):
        if idmap_of(spec, index) is not None:
            raise FailedPrecondition(f"mounts[{index}]: criu cannot restore a mount whose ids are mapped")
    prepared = prepare(spec, bundle, layout(None), False, {}, {})
    root = posixpath.normpath(posixpath.join(bundle, spec.root.path)) if spec.root is not None else ""
    for item in bound(prepared):
        if mounted_before(item, root, prepared[: item.index]):
            raise FailedPrecondition(
                f"mounts[{item.index}]: criu cannot restore a mount of what others put in the root"
            )
        if item.options.source_itself or item.target == "/":
            what = "the root" if item.target == "/" else "a link itself"
            raise FailedPrecondition(f"mounts[{item.index}]: criu cannot restore a mount of {what}")
    return prepared


def bound(prepared: tuple[Prepared, ...]) -> tuple[Prepared, ...]:
    """Those that are trees of the host."""
    return tuple(item for item in prepared if item.options.bind and not item.change_only)


def check(spec: RuntimeSpec) -> Namespaces:
    """The namespaces of a container that CRIU can dump and restore; raises for one that it cannot."""
    linux = spec.linux or Linux()
    found = namespaces(linux)
    if "network" in found.new and linux.net_devices:
        raise FailedPrecondition("linux.netDevices: criu keeps them only in a network namespace that is joined")
    if "mount" not in found.new:
        raise FailedPrecondition("linux.namespaces: criu needs a mount namespace of the container's own")
    if "cgroup" in found.joined:
        raise FailedPrecondition("linux.namespaces (cgroup): criu cannot join a control group namespace")
    return found


# --- dump


def dumped(
    spec: RuntimeSpec,
    bundle: str,
    places: tuple[MountPoint, ...],
    standing: Mapping[int, tuple[int, str]],
) -> tuple[tuple[str, str], ...]:
    """Pairs of mount point and key. `places` are the container's mounts; `standing` tells for indexes of `mounts` the
    id of the mount that is found at the destination, and where that is with no link in the path."""
    prepared, by_id = mounts(spec, bundle), {place.id: place for place in places}
    found: dict[str, str] = {}
    for item in bound(prepared):
        id, path = standing.get(item.index, (-1, ""))
        place = by_id.get(id)
        if place is None or place.path != path:
            continue  # unmounted, or never there: a link that was copied
        found[place.path] = item.target
        if item.options.flags & MS_REC:
            for below in _below(places, place, {id for id, _ in standing.values()}):
                found[below.path] = posixpath.normpath(item.target + below.path[len(place.path) :])
    found |= dict.fromkeys(_masked(spec, places), _NULL)
    found |= {path: path for path in _devices(spec)}
    if not _own_groups(spec):
        found |= {p.path: p.path for p in places if p.type in ("cgroup", "cgroup2") and p.root != "/"}
    return tuple(found.items())


def _below(places: tuple[MountPoint, ...], top: MountPoint, others: set[int]) -> Iterator[MountPoint]:
    """What came with a recursive bind: the mounts in its tree which no other entry of the configuration has made."""
    tree = {top.id}
    for place in places:  # a parent is listed before its children
        if place.parent in tree and place.id not in others:
            tree.add(place.id)
            yield place


def _masked(spec: RuntimeSpec, places: tuple[MountPoint, ...]) -> Iterator[str]:
    """Files that are hidden behind the host's null device; hidden directories are a tmpfs, which is CRIU's."""
    hidden = {clean(path) for path in (spec.linux or Linux()).masked_paths}
    return (place.path for place in places if place.path in hidden and place.root != "/")


def _devices(spec: RuntimeSpec) -> tuple[str, ...]:
    """Nodes that are bound, because in a user namespace none can be made."""
    linux = spec.linux or Linux()
    if "user" not in namespaces(linux) or any(m.target == "/dev" and m.options.bind for m in mounts(spec, "/")):
        return ()
    named = {clean(device.path): device.type for device in linux.devices}
    return tuple(path for path in dict.fromkeys((*(d[0] for d in DEFAULTS), *named)) if named.get(path) != "p")


def _own_groups(spec: RuntimeSpec) -> bool:
    return "cgroup" in namespaces(spec.linux or Linux())


# --- restore


def restored(
    spec: RuntimeSpec, bundle: str, groups: CgroupHost, group: str, host: tuple[MountPoint, ...]
) -> tuple[tuple[str, str], ...]:
    """Pairs of key and path of the host, of which CRIU takes those that the image asks for. `host` are the host's
    mounts, for what is mounted below the source of a recursive bind."""
    prepared = mounts(spec, bundle)
    found: dict[str, str] = {_NULL: _NULL} | {path: path for path in _devices(spec)}
    for item in prepared:
        if item.control_groups and not _own_groups(spec):
            found |= _groups(item, groups, group)
    for item in bound(prepared):
        found[item.target] = item.source
        if item.options.flags & MS_REC:
            source = posixpath.normpath(item.source)
            prefix = "/" if source == "/" else source + "/"
            for place in host:
                if place.path.startswith(prefix) and place.path != source:
                    found.setdefault(posixpath.join(item.target, place.path[len(prefix) :]), place.path)
    return tuple(found.items())


def _groups(item: Prepared, groups: CgroupHost, group: str) -> dict[str, str]:
    if groups.mode == "v2":
        return {item.target: groups.unified + group}
    found = hierarchies(groups.mounts, groups.unified, group)
    return {f"{item.target}/{hierarchy.name}": hierarchy.directory for hierarchy in found}
