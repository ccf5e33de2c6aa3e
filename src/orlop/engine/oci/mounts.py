"""What is mounted in a container, in the order of mounting. Pure.

Parents come before what lies in them. A mount that is asked for takes the place of a default one on the same target.
"""

from __future__ import annotations

import posixpath

import msgspec

from orlop.engine.config import ContainerConfig, MountRequest
from orlop.engine.oci import security
from orlop.engine.oci.facts import ContainerFacts
from orlop.engine.oci.process import INIT_TARGET, uses_init
from orlop.engine.oci.users import id_mappings, mappings
from orlop.runtime.mount_options import ATTRIBUTES, RECURSIVE
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import Mount

_PROPAGATIONS = frozenset(
    prefix + name for prefix in ("", "r") for name in ("private", "shared", "slave", "unbindable")
)
# mount(8), options of every file system; each list excludes each other, and the last one given counts
_EXCLUSIVE = (
    ("ro", "rw"),
    ("exec", "noexec"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("sync", "async"),
    ("dirsync",),
    ("atime", "noatime", "relatime", "strictatime", "norelatime", "nostrictatime"),
    ("diratime", "nodiratime"),
    ("mand", "nomand"),
    ("iversion", "noiversion"),
    tuple(sorted(_PROPAGATIONS)),
)
_FLAG_GROUP = {name: group for group in _EXCLUSIVE for name in group}
# tmpfs(5)
_TMPFS_KEYS = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"})
# stays writable with --read-only: the kernel's, or in memory
_ALWAYS_WRITABLE = frozenset({"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"})
BIND_FLAGS = (ATTRIBUTES.keys() | RECURSIVE.keys()) - {"ro", "rw", "rro", "rrw"}
_RECURSIVE_READ_ONLY = (5, 12)  # mount_setattr(2)


def mounts(config: ContainerConfig, facts: ContainerFacts) -> tuple[Mount, ...]:
    asked = [_requested(request, facts, config) for request in config.mounts]
    targets = {mount.destination for mount in asked}
    over_dev = "/dev" in targets
    standard = [
        mount
        for mount in (*_defaults(config, facts), *_files(config, facts))
        if mount.destination not in targets and not (over_dev and mount.destination.startswith("/dev/"))
    ]
    # sorted() keeps the order of equals
    return tuple(sorted([*standard, *asked], key=lambda mount: _depth(mount.destination)))


def _depth(target: str) -> int:
    return target.rstrip("/").count("/")


def _defaults(config: ContainerConfig, facts: ContainerFacts) -> tuple[Mount, ...]:
    """Docker's mounts for a Linux container."""
    asked = security.options(config)
    sys_access = () if config.privileged else ("ro",)
    cgroup_access = () if config.privileged or asked.writable_cgroups else ("ro",)
    result = [
        Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")),
        Mount(
            destination="/dev",
            type="tmpfs",
            source="tmpfs",
            options=("nosuid", "strictatime", "mode=755", "size=65536k"),
        ),
        Mount(
            destination="/dev/pts",
            type="devpts",
            source="devpts",
            options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", *sys_access)),
        Mount(
            destination="/sys/fs/cgroup",
            type="cgroup",
            source="cgroup",
            options=("nosuid", "noexec", "nodev", *cgroup_access),
        ),
        Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=("nosuid", "noexec", "nodev")),
    ]
    return (*result, *_shm(config, facts))


def _shm(config: ContainerConfig, facts: ContainerFacts) -> tuple[Mount, ...]:
    if config.ipc_mode == "none":
        return ()
    if facts.shm:
        return (Mount(destination="/dev/shm", type="bind", source=facts.shm, options=("rbind", "rprivate")),)
    options = ("nosuid", "noexec", "nodev", "mode=1777", f"size={config.limits.shm_size}")
    return (Mount(destination="/dev/shm", type="tmpfs", source="shm", options=options),)


def sandbox_mounts() -> tuple[Mount, ...]:
    """A sandbox's process looks at nothing; the runtime puts its standard devices into /dev."""
    options = ("nosuid", "noexec", "mode=755", "size=64k")
    return (Mount(destination="/dev", type="tmpfs", source="tmpfs", options=options),)


def _files(config: ContainerConfig, facts: ContainerFacts) -> tuple[Mount, ...]:
    """The container's own hosts, hostname and resolv.conf, and the init that --init asks for."""
    access = ("ro",) if config.read_only else ()
    found = [
        Mount(
            destination=target,
            type="bind",
            source=source,
            options=("rbind", "rprivate", *access),
            uid_mappings=mappings(config, 0),
            gid_mappings=mappings(config, 1),
        )
        for target, source in (
            ("/etc/resolv.conf", facts.resolv_conf),
            ("/etc/hostname", facts.hostname_file),
            ("/etc/hosts", facts.hosts_file),
        )
        if source
    ]
    if uses_init(config):
        if not facts.init_path:
            raise InvalidArgument("--init: the init program is not installed; build it with scripts/build")
        options = ("bind", "rprivate", "ro")
        found.append(Mount(destination=INIT_TARGET, type="bind", source=facts.init_path, options=options))
    return tuple(found)


def target_of(request: MountRequest) -> str:
    """The cleaned target. Raises InvalidArgument for one that is not absolute, and for the root."""
    what = f'invalid mount config for type "{request.type[:16]}"'
    if not request.target.startswith("/") or "\0" in request.target:
        raise InvalidArgument(f"{what}: invalid mount path: {request.target[:128]!r} mount path must be absolute")
    cleaned = "/" + posixpath.normpath(request.target).lstrip("/")
    if cleaned == "/":
        raise InvalidArgument(f"{what}: invalid specification: destination can't be '/'")
    return cleaned


def _requested(request: MountRequest, facts: ContainerFacts, config: ContainerConfig) -> Mount:
    target = target_of(request)
    if request.type == "tmpfs":
        return Mount(destination=target, type="tmpfs", source="tmpfs", options=tmpfs_options(request))
    if request.type == "bind":
        uids, gids = request.id_maps or ((), ())
        return Mount(
            destination=target,
            type="bind",
            source=request.source,
            options=_bind_options(request, facts),
            uid_mappings=id_mappings(uids),
            gid_mappings=id_mappings(gids),
        )
    if request.type == "image":
        source = facts.images.get(request.target)
        if not source:
            raise InvalidArgument(f"mounts: no image stands ready for {target}")
        options = ("rbind", "rprivate", "ro", *bind_flags(request))
        return Mount(destination=target, type="bind", source=source, options=options)
    if request.type != "volume":
        raise InvalidArgument(f"mount type unknown: {request.type[:32]!r}")
    source = facts.volumes.get(request.target) or facts.volumes.get(target)
    if not source:
        raise InvalidArgument(f"mounts: no volume stands ready for {target}")
    return Mount(
        destination=target,
        type="bind",
        source=source,
        options=_bind_options(request, facts),
        uid_mappings=mappings(config, 0),
        gid_mappings=mappings(config, 1),
    )


def check_propagation(propagation: str) -> None:
    if propagation and propagation not in _PROPAGATIONS:
        raise InvalidArgument(f'invalid mount config for type "bind": invalid propagation {propagation[:32]!r}')


def _bind_options(request: MountRequest, facts: ContainerFacts) -> tuple[str, ...]:
    check_propagation(request.propagation)
    propagation = request.propagation or "rprivate"
    options = ["rbind" if request.recursive else "bind", propagation]
    if request.read_only:
        # without `rro`, what is mounted beneath the source would stay writable
        recursive = request.read_only_recursive
        if recursive is None:
            recursive = request.recursive and facts.kernel >= _RECURSIVE_READ_ONLY
        if recursive and facts.kernel < _RECURSIVE_READ_ONLY:
            raise FailedPrecondition(f"mount {request.target[:128]}: recursive read-only needs Linux 5.12")
        options.append("rro" if recursive else "ro")
    return (*options, *bind_flags(request))


def bind_flags(request: MountRequest) -> tuple[str, ...]:
    """Further options of a bind mount: flags that a mount has of its own, alone or with all beneath it."""
    for option in request.options:
        if option not in BIND_FLAGS:
            raise InvalidArgument(f"mount {request.target[:128]}: option {option[:32]!r} is not one of a bind mount")
    return request.options


def tmpfs_options(request: MountRequest) -> tuple[str, ...]:
    """The options of a tmpfs: nosuid, nodev and noexec unless they are asked away."""
    asked = list(request.options)
    if request.read_only:
        asked.append("ro")
    if request.size is not None:
        asked.append(f"size={request.size}")
    if request.mode is not None:
        asked.append(f"mode={request.mode:o}")
    flags: dict[tuple[str, ...], str] = {}
    data: dict[str, str] = {}
    for option in ("noexec", "nosuid", "nodev", "rprivate", *asked):
        key, equals, value = option.partition("=")
        if option in _FLAG_GROUP:
            flags[_FLAG_GROUP[option]] = option
        elif equals and value and key in _TMPFS_KEYS and not set(value) & set(",\0\n"):
            data[key] = option
        elif option != "defaults":
            raise InvalidArgument(f"invalid tmpfs option {option[:32]!r}")
    return (*flags.values(), *data.values())


def rootfs_propagation(config: ContainerConfig) -> str:
    """A mount can only be shared with the host beneath a root that is (Docker, "bind propagation")."""
    wanted = {request.propagation.removeprefix("r") for request in config.mounts}
    return "shared" if "shared" in wanted else "rslave" if "slave" in wanted else ""


def read_only_mounts(config: ContainerConfig, made: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """With --read-only, what the defaults mount on top of the root is read-only too, save what must be written to."""
    if not config.read_only:
        return made
    asked = {target_of(request) for request in config.mounts}
    return tuple(mount if mount.destination in asked | _ALWAYS_WRITABLE else _read_only(mount) for mount in made)


def _read_only(mount: Mount) -> Mount:
    if {"ro", "rro"} & set(mount.options):
        return mount
    return msgspec.structs.replace(mount, options=(*mount.options, "ro"))
