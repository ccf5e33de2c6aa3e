"""Device nodes and the links in /dev (config-linux.md, "Devices", "Default Devices"; config.md). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orlop.runtime.compile_layout import (
    AT_EMPTY_PATH,
    MOST_MADE,
    NONE,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    OPEN_TREE_CLONE,
    SLOTS,
    Layout,
)
from orlop.runtime.compile_mounts import clean
from orlop.runtime.mount_options import ATTR_NOEXEC, ATTR_NOSUID
from orlop.runtime.ops import (
    Close,
    Fsconfig,
    Fsmount,
    Fsopen,
    Mknod,
    MountSetattr,
    MoveMount,
    Open,
    OpenTree,
    Symlink,
    Target,
)
from orlop.runtime.optable import SKIP_EXISTS, SKIP_MISSING
from orlop.runtime.plan import Step
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import Device, IDMapping, Linux, RuntimeSpec

_TYPES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}
# what every container has: name, major, minor (config-linux.md, "Default Devices")
DEFAULTS: tuple[tuple[str, int, int], ...] = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
# the first three are the specification's (runtime-linux.md, "Dev symbolic links"), /dev/core is what systems have
LINKS: tuple[tuple[str, str], ...] = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
)
_DEFAULT_MODE = 0o666
_FSCONFIG_CREATE = 6


def check_devices(devices: tuple[Device, ...]) -> None:
    """Refuse wrong entries of linux.devices."""
    seen: dict[str, int] = {}
    for index, device in enumerate(devices):
        where = f"linux.devices[{index}]"
        if device.type not in _TYPES:
            raise InvalidArgument(f"{where}.type: {device.type[:16]!r} is not c, b, u or p")
        if not device.path.startswith("/") or clean(device.path) == "/" or "\0" in device.path:
            raise InvalidArgument(f"{where}.path: {device.path[:128]!r} is not an absolute path of a file")
        if clean(device.path) in seen:
            raise InvalidArgument(f"{where}.path: {device.path[:128]} is linux.devices[{seen[clean(device.path)]}] too")
        seen[clean(device.path)] = index
        for name, value, most in (
            ("major", device.major, (1 << 12) - 1),
            ("minor", device.minor, (1 << 20) - 1),
            ("fileMode", device.file_mode or 0, 0o177777),
            ("uid", device.uid or 0, (1 << 32) - 2),
            ("gid", device.gid or 0, (1 << 32) - 2),
        ):
            if not 0 <= value <= most:
                raise InvalidArgument(f"{where}.{name}: {value} is not between 0 and {most}")


def device_steps(spec: RuntimeSpec, slots: Layout, user_namespace: bool, made: tuple[int, ...] = ()) -> Iterator[Step]:
    """All nodes and links. In a user namespace nodes can't be made: the host's are bound, or those `made` outside."""
    assert spec.linux is not None
    make = _bind if user_namespace else _mknod
    own = {clean(device.path) for device in spec.linux.devices}
    for path, major, minor in DEFAULTS:
        if path not in own:
            device = Device(type="c", path=path, major=major, minor=minor)
            yield from make(device, slots, f"default devices ({path})")
    for index, device in enumerate(spec.linux.devices):
        origin = f"linux.devices[{index}] ({device.path})"
        if user_namespace and _is_ptmx(device):
            continue
        if index in made:
            yield from _attach(device, slots, made_slot(made.index(index)), origin)
        else:
            yield from make(device, slots, origin)
    for path, target in LINKS:
        yield Step(Symlink(slots.root, path, target), f"default links ({path})", SKIP_EXISTS)


def _is_ptmx(device: Device) -> bool:
    """The kernel looks for its terminals in the directory beside it (fs/namei.c, path_pts): a node that is mounted
    alone finds none. Where nodes are mounted, the link to pts/ptmx, which the specification allows, stands for it."""
    return clean(device.path) == "/dev/ptmx" and device.type in "cu" and (device.major, device.minor) == (5, 2)


def made_outside(linux: Linux, wanted: bool) -> tuple[int, ...]:
    """Which of linux.devices are made before the user namespace is entered, by index: in it none could be, and what the
    host has under that path need not be what is asked for."""
    found = tuple(i for i, device in enumerate(linux.devices) if device.type != "p" and not _is_ptmx(device))
    return found if wanted and len(found) <= MOST_MADE else ()


def outside_steps(linux: Linux, indexes: tuple[int, ...], slots: Layout) -> Iterator[Step]:
    """Make them on a file system of their own, and a mount of each alone, which is attached later."""
    if not indexes:
        return
    origin = "linux.devices"
    yield Step(Fsopen(slots.file, "tmpfs"), origin)
    yield Step(Fsconfig(slots.file, _FSCONFIG_CREATE, "", ""), origin)
    yield Step(Fsmount(slots.tree, slots.file, ATTR_NOSUID | ATTR_NOEXEC), origin)
    for place, index in enumerate(indexes):
        device, origin = linux.devices[index], f"linux.devices[{index}] ({linux.devices[index].path})"
        mode = _DEFAULT_MODE if device.file_mode is None else device.file_mode & 0o7777
        uid = _outer(device.uid, linux.uid_mappings, f"linux.devices[{index}].uid")
        gid = _outer(device.gid, linux.gid_mappings, f"linux.devices[{index}].gid")
        name, type_ = f"/{index}", _TYPES[device.type]
        yield Step(Mknod(slots.tree, name, type_ | mode, device.major, device.minor, uid, gid), origin)
        yield Step(OpenTree(made_slot(place), slots.tree, name, OPEN_TREE_CLONE), origin)


def made_slot(place: int) -> int:
    return SLOTS - 1 - place


def _outer(identifier: int | None, mappings: tuple[IDMapping, ...], where: str) -> int:
    """The host's number of an id in the container; without one, of the container's root."""
    wanted = min((m.container_id for m in mappings), default=0) if identifier is None else identifier
    for mapping in mappings:
        if mapping.container_id <= wanted < mapping.container_id + mapping.size:
            return mapping.host_id + wanted - mapping.container_id
    raise InvalidArgument(f"{where}: {wanted} is not mapped in the user namespace")


def directory_itself(slots: Layout, path: str) -> Iterator[Step]:
    """Refuse a link where a directory is to be filled. None is there: it will be made. The link would be followed
    inside the root, yet what a container's /dev is, the image has no say in."""
    origin = f"default devices ({path})"
    yield Step(Close(slots.tree), origin)
    yield Step(Open(slots.tree, slots.root, path, O_PATH | O_NOFOLLOW, 0, 0), origin, SKIP_MISSING)
    yield Step(Open(slots.file, slots.tree, ".", O_PATH | O_DIRECTORY, 0, 0), origin)


def _mknod(device: Device, slots: Layout, origin: str) -> Iterator[Step]:
    mode = _DEFAULT_MODE if device.file_mode is None else device.file_mode & 0o7777
    op = Mknod(
        slots.root, clean(device.path), _TYPES[device.type] | mode, device.major, device.minor, device.uid or 0,
        device.gid or 0,
    )  # fmt: skip
    yield Step(op, origin)


def _attach(device: Device, slots: Layout, tree: int, origin: str) -> Iterator[Step]:
    yield Step(Target(slots.root, clean(device.path), tree, 0), origin)
    yield Step(MoveMount(tree, slots.root, clean(device.path)), origin)


def _bind(device: Device, slots: Layout, origin: str) -> Iterator[Step]:
    if device.type == "p":
        yield from _mknod(device, slots, origin)
        return
    yield Step(OpenTree(slots.tree, NONE, clean(device.path), OPEN_TREE_CLONE), origin)
    yield from _attach(device, slots, slots.tree, origin)
    yield Step(MountSetattr(slots.tree, AT_EMPTY_PATH, ATTR_NOSUID | ATTR_NOEXEC, 0, 0, NONE), origin)
