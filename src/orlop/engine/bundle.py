"""What a container is started from: its spec, made from its request, its image, and the facts of host and root."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orlop.engine import groups, image_mounts, users
from orlop.engine.config import ContainerConfig, DeviceRequest, MountRequest
from orlop.engine.oci import spec as oci
from orlop.engine.oci.facts import ContainerFacts, HostDevice
from orlop.engine.oci.namespaces import hostname, own_network
from orlop.engine.oci.users import on_host, ranges
from orlop.engine.records import Container
from orlop.network import files
from orlop.network.records import Attachment
from orlop.network.resolv import host_file, read_resolv_conf
from orlop.runtime.host import bounding_set
from orlop.seccomp.cache import Program, program
from orlop.shim.spawn import LogFile
from orlop.spec.document import encode
from orlop.spec.errors import FailedPrecondition, InvalidArgument, os_errors
from orlop.spec.image import ImageConfig, RootFS
from orlop.spec.runtime import RuntimeSpec
from orlop.sys.files import overwrite
from orlop.sys.inroot import read_in_root
from orlop.sys.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

_program = lru_cache(4)(program)
INIT_PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "orlop-init")


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """`networked`: a network interface is to be made for it, in a namespace of its own."""

    spec: RuntimeSpec
    seccomp: Program | None
    networked: bool
    log: LogFile | None


def make_bundle(engine: Engine, container: Container, root: int, user_namespace: int = -1) -> Bundle:
    """Compute the container's spec and write its files. `root` is a descriptor of its root file system, and
    `user_namespace` of what it joins, or -1."""
    image = image_config(engine, container)
    config = with_image_volumes(container)
    directory = engine.paths.container(container.id)
    images = image_mounts.mount(engine, container, user_namespace)
    facts = msgspec.structs.replace(_facts(engine, container, config, image, root), images=images)
    _mount_shm(engine, container)
    if oci.wants_root(config):
        with os_errors("make the place of the root file system"):
            hook_root(engine, container).mkdir(mode=0o700, exist_ok=True)
    _write_files(engine, container, facts, directory)
    bundle = _bundle(engine, container, config, image, facts)
    with os_errors("write config.json of the container"):
        overwrite(f"{directory}/config.json", encode(bundle.spec))
    return bundle


def preview_bundle(engine: Engine, container: Container, root: int) -> Bundle:
    """What `make_bundle` would make, with nothing written and nothing mounted."""
    image = image_config(engine, container)
    config = with_image_volumes(container)
    return _bundle(engine, container, config, image, _facts(engine, container, config, image, root))


def _bundle(
    engine: Engine, container: Container, config: ContainerConfig, image: ImageConfig, facts: ContainerFacts
) -> Bundle:
    spec = oci.runtime_spec(config, image, facts)
    seccomp = spec.linux.seccomp if spec.linux else None
    return Bundle(
        spec=spec,
        seccomp=_program(seccomp, f"{engine.paths.state}/seccomp") if seccomp is not None else None,
        networked=networked(config),
        log=_log(container, engine.paths.container(container.id)),
    )


def networked(config: ContainerConfig) -> bool:
    """Whether a network interface is to be made for a container, in a namespace of its own."""
    return own_network(config) and config.network.mode != "none"


def image_config(engine: Engine, container: Container) -> ImageConfig:
    """What the container's image says of itself; nothing, where a directory of the host stands for one."""
    if container.config.rootfs:
        return ImageConfig(rootfs=RootFS(type="layers", diff_ids=()))
    return engine.images.by_id(container.record.image_id).config


def with_image_volumes(container: Container) -> ContainerConfig:
    """The request with a mount for each volume that the image declares and the container was given."""
    asked = {_clean(m.target) for m in container.config.mounts}
    extra = tuple(
        MountRequest(type="volume", target=use.target, source=use.volume)
        for use in container.record.volumes
        if _clean(use.target) not in asked
    )
    return msgspec.structs.replace(container.config, mounts=container.config.mounts + extra)


def identity(config: ContainerConfig, image: ImageConfig, root: int) -> users.Identity:
    """Who the container's process is, by the image's own files."""
    return users.resolve(
        config.user or image.defaults.user,
        read_in_root(root, "etc/passwd").decode("utf-8", "replace"),
        read_in_root(root, "etc/group").decode("utf-8", "replace"),
        config.groups,
        _groups_policy(config),
    )


def _groups_policy(config: ContainerConfig) -> users.Policy:
    if config.pod is None:
        return "docker"
    return "strict" if config.pod.strict_groups else "merge"


def _facts(
    engine: Engine, container: Container, config: ContainerConfig, image: ImageConfig, root: int
) -> ContainerFacts:
    kernel, who = os.uname(), identity(config, image, root)
    modes = _modes(config)
    found = {mode: _shared(engine, mode) for mode in dict.fromkeys(modes.values())}  # mostly the same container for all
    shared = {kind: found[mode] for kind, mode in modes.items()}
    network = shared["net"]
    donor = (config.pod.sandbox if config.pod else "") or (network.id if network else container.id)
    home = engine.paths.container(donor)
    return ContainerFacts(
        id=container.id,
        identity=who,
        root=str(hook_root(engine, container)) if oci.wants_root(config) else str(engine.paths.snapshots),
        cgroup_path=groups.configured(container.record),
        machine=kernel.machine,
        kernel=_kernel(kernel.release),
        processors=os.cpu_count() or 0,
        available_capabilities=bounding_set(),
        cgroup_v2=engine.cgroups.mode == "v2",
        hostname=_shared_hostname(config, network, kernel.nodename),
        hosts_file=str(home / "hosts"),
        hostname_file=str(home / "hostname"),
        resolv_conf=str(home / "resolv.conf"),
        shm=_shm(engine, container, shared["ipc"]),
        init_path=INIT_PROGRAM,
        volumes={use.target: str(engine.volumes.path(use.volume)) for use in container.record.volumes},
        network_namespace=_namespace(network, "net"),
        pid_namespace=_namespace(shared["pid"], "pid"),
        ipc_namespace=_namespace(shared["ipc"], "ipc"),
        uts_namespace=_namespace(shared["uts"], "uts"),
        user_namespace=user_namespace_of(engine, container),
        devices=_devices(config, who),
    )


def _modes(config: ContainerConfig) -> dict[str, str]:
    return {"net": config.network.mode, "pid": config.pid_mode, "ipc": config.ipc_mode, "uts": config.uts_mode}


def _shared(engine: Engine, mode: str) -> Container | None:
    """The running container that `container:<ref>` names."""
    kind, colon, ref = mode.partition(":")
    if kind != "container" or not colon:
        return None
    other = engine.containers.get(ref)
    if not other.running:
        raise FailedPrecondition(f"cannot join container {other.name}: it is not running")
    return other


def _namespace(container: Container | None, kind: str) -> str:
    return f"/proc/{container.record.pid}/ns/{kind}" if container else ""


def user_namespace_of(engine: Engine, container: Container) -> str:
    """The path of the user namespace that a container joins, that of its pod; empty where it joins none."""
    pod = container.config.pod
    if pod is None or pod.id_maps is None or not pod.sandbox:
        return ""
    return _namespace(_shared(engine, f"container:{pod.sandbox}"), "user")


def _shm(engine: Engine, container: Container, donor: Container | None) -> str:
    """What is bound on /dev/shm: a directory of the host that no container can exchange, never a path inside one.
    `donor` is the container whose IPC namespace is joined.

    Empty where the container has a private one. Raises InvalidArgument where another's is asked for that is private.
    """
    mode = container.config.ipc_mode
    if mode == "host":
        return "/dev/shm"
    if mode == "shareable":
        return str(shm_directory(engine, container.id))
    if donor is None:
        return ""
    path = _shm(engine, donor, _shared(engine, donor.config.ipc_mode))
    if not path:
        raise InvalidArgument(f"container {donor.name}: non-shareable IPC (start it with --ipc shareable)")
    return path


def shm_directory(engine: Engine, identifier: str) -> Path:
    """Where the shared memory of a container with `--ipc shareable` is mounted on the host while it runs."""
    return engine.paths.run(identifier) / "shm"


def _mount_shm(engine: Engine, container: Container) -> None:
    """Make the shared memory that other containers may join. It is on the host, as a mount of this container's own
    namespace could not be bound into another's."""
    if container.config.ipc_mode != "shareable":
        return
    directory = shm_directory(engine, container.id)
    with os_errors("mount the shared memory of the container"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        uid, gid = (on_host(0, side) for side in ranges(container.config))
        options = f"mode=1777,size={container.config.limits.shm_size},uid={uid},gid={gid}"
        mount("shm", str(directory), "tmpfs", flags, options)


def _shared_hostname(config: ContainerConfig, network: Container | None, host: str) -> str:
    if network is not None:
        return network.config.hostname or network.id[:12]
    return host if config.network.mode == "host" or config.uts_mode == "host" else ""


def _kernel(release: str) -> tuple[int, int]:
    major, minor = release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def hook_root(engine: Engine, container: Container) -> Path:
    """Where the root file system is, in the container's mount namespace, while hooks work on it."""
    return engine.paths.run(container.id) / "rootfs"


def _devices(config: ContainerConfig, who: users.Identity) -> tuple[HostDevice, ...]:
    """The nodes for --device, and with --privileged every node of the host."""
    found: dict[str, HostDevice] = {}
    if config.privileged:
        found |= {d.path: d for d in _walk("/dev", "/dev", "rwm", skip=("pts", "shm", "mqueue", "fd", "console"))}
    for request in config.limits.devices:
        if request.type and (request.major or request.minor or request.type == "p"):
            found[request.target] = _owned(_described(request), request, who)
            continue
        if not os.path.exists(request.source):
            raise InvalidArgument(f"error gathering device information: {request.source}: no such device")
        nodes = list(_walk(request.source, request.target, request.access))
        if not nodes:
            raise InvalidArgument(f"error gathering device information: {request.source}: not a device node")
        found |= {d.path: _owned(d, request, who) for d in nodes}
    return tuple(found.values())


def _described(request: DeviceRequest) -> HostDevice:
    """A node that a request says all about."""
    kind = "c" if request.type == "u" else request.type
    return HostDevice(path=request.target, type=kind, major=request.major, minor=request.minor, access=request.access)


def _owned(device: HostDevice, request: DeviceRequest, who: users.Identity) -> HostDevice:
    """With mode and owner as the request has them."""
    uid, gid = request.uid, request.gid
    if request.of_user:
        uid = who.uid if uid is None and who.uid else uid
        gid = who.gid if gid is None and who.gid else gid
    return msgspec.structs.replace(
        device,
        mode=device.mode if request.mode is None else stat.S_IMODE(request.mode),
        uid=device.uid if uid is None else uid,
        gid=device.gid if gid is None else gid,
    )


def _walk(source: str, target: str, access: str, skip: tuple[str, ...] = ()) -> list[HostDevice]:
    info = os.stat(source)
    if not stat.S_ISDIR(info.st_mode):
        return [_node(info, target, access)] if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode) else []
    found: list[HostDevice] = []
    for name in sorted(os.listdir(source)):
        path = f"{source}/{name}"
        if name not in skip and not os.path.islink(path):
            found += _walk(path, f"{target}/{name}", access)
    return found


def _node(info: os.stat_result, target: str, access: str) -> HostDevice:
    return HostDevice(
        path=target,
        type="b" if stat.S_ISBLK(info.st_mode) else "c",
        major=os.major(info.st_rdev),
        minor=os.minor(info.st_rdev),
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        access=access,
    )


def _write_files(engine: Engine, container: Container, facts: ContainerFacts, directory: Path) -> None:
    """hosts, hostname and resolv.conf. Written in place where they exist: they are bound into running containers."""
    config = container.config
    if config.network.mode.startswith("container:") or (config.pod and config.pod.sandbox):
        return
    own = own_network(config)
    name = hostname(config, facts)
    resolv = files.resolv_conf(
        read_resolv_conf(),
        nameservers=config.network.dns,
        search=config.network.dns_search,
        options=config.network.dns_options,
        own_namespace=own,
    )
    hosts = hosts_text(config, name, None) if own else _host_hosts(config)
    with os_errors("write the container's files"):
        for file, text in (("hostname", files.hostname_file(name)), ("resolv.conf", resolv), ("hosts", hosts)):
            overwrite(f"{directory}/{file}", text.encode())
            os.chmod(f"{directory}/{file}", 0o644)


def hosts_text(config: ContainerConfig, name: str, attachment: Attachment | None) -> str:
    """/etc/hosts, with the container's addresses once it has some."""
    gateway = attachment.gateways[0] if attachment and attachment.gateways else ""
    extra = config.network.extra_hosts
    if not gateway:  # what needs the gateway comes when the network is there; --network none has none
        extra = tuple(entry for entry in extra if not entry.endswith(files.HOST_GATEWAY))
    return files.hosts_file(
        name,
        config.domainname,
        attachment.addresses if attachment else (),
        config.network.aliases,
        extra,
        gateway,
    )


def _host_hosts(config: ContainerConfig) -> str:
    extra = files.hosts_file("", extra_hosts=config.network.extra_hosts, gateway="127.0.0.1")
    own = [line for line in extra.splitlines() if line not in files.hosts_file("").splitlines()]
    return host_file("/etc/hosts") + "".join(f"{line}\n" for line in own)


def _log(container: Container, directory: Path) -> LogFile | None:
    log = container.config.log
    if log.driver == "none":
        return None
    if log.driver == "cri":
        with os_errors("make the directory of the log"):
            os.makedirs(os.path.dirname(log.path), mode=0o755, exist_ok=True)
        return LogFile(path=log.path, cri=True)
    return LogFile(path=str(directory / "log.json"), max_size=max(0, log.max_size), max_files=log.max_files)


def _clean(target: str) -> str:
    return "/" + "/".join(part for part in target.split("/") if part not in ("", "."))
