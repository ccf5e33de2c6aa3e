"""What a user may ask of a container: the typed request that every front turns its own words into.

`ContainerConfig` stands below all flags and JSON dialects: the command lines and the API servers each transform their
input into one, and nothing below them sees a flag. It is stored with the container and never changes after creation,
except through `update` and `rename`.
"""

# No `from __future__ import annotations`: what msgspec decodes into it would have to compile at every start.

from typing import Any

import msgspec

MIB = 1 << 20


class _Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class MountRequest(_Config, frozen=True, kw_only=True):
    """One `-v`, `--mount` or `--tmpfs`. `source` is a host path for a bind, a volume's name (empty: anonymous) for a
    volume, and empty for a tmpfs."""

    type: str  # bind, volume, tmpfs, image
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = ""  # bind: private, rprivate, shared, rshared, slave, rslave
    recursive: bool = True  # bind: also what is mounted beneath the source
    read_only_recursive: bool | None = None  # bind: what is mounted beneath too; None: where the kernel can
    id_maps: tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]] | None = None  # bind: idmapped
    create_source: bool = False  # bind through -v: a missing source is made, as a directory
    no_copy: bool = False  # volume: do not fill a new volume from the image
    subpath: str = ""  # volume: mount only this directory of it
    size: int | None = None  # tmpfs: bytes
    mode: int | None = None  # tmpfs: permission bits
    options: tuple[str, ...] = ()  # tmpfs: further mount options, as in --tmpfs /run:noexec,uid=1


class PortBinding(_Config, frozen=True, kw_only=True):
    """A published port. `host_port` 0 asks for a free one; `host_address` "" means every address, of both families."""

    container_port: int
    protocol: str = "tcp"  # tcp, udp, sctp
    host_port: int = 0
    host_address: str = ""


class PodName(_Config, frozen=True, kw_only=True):
    """What Kubernetes calls a pod."""

    namespace: str
    name: str
    uid: str


class NetworkRequest(_Config, frozen=True, kw_only=True):
    """`mode`: none, host, bridge (the default network), container:<id>, the name of a network, or cni:<name> for one
    that a conflist defines, also where another network has that name."""

    mode: str = "bridge"
    aliases: tuple[str, ...] = ()
    address: str = ""
    address6: str = ""
    mac_address: str = ""
    ports: tuple[PortBinding, ...] = ()
    publish_all: bool = False
    expose: tuple[str, ...] = ()  # such as "80/tcp"
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()  # "name:address"; the address host-gateway means the bridge's own
    pod: PodName | None = None  # told to CNI's plugins
    capabilities: dict[str, Any] = {}  # what those of CNI's plugins that have the capability are given


class DeviceRequest(_Config, frozen=True, kw_only=True):
    """`--device`: a node of the host (or a directory of nodes), made available under another path.

    What is given beside that is not looked up on the host: with a `type` the node need not be there at all. `of_user`:
    a node whose owner is not given belongs to the container's user.
    """

    source: str
    target: str
    access: str = "rwm"
    type: str = ""  # b, c, u or p
    major: int = 0
    minor: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    of_user: bool = False


class Ulimit(_Config, frozen=True, kw_only=True):
    """`--ulimit name=soft:hard`; -1 is unlimited."""

    name: str  # nofile, not RLIMIT_NOFILE
    soft: int
    hard: int


class Limits(_Config, frozen=True, kw_only=True):
    """Resource limits. Sizes are bytes, CPU times microseconds, `nano_cpus` billionths of a CPU."""

    memory: int | None = None
    memory_swap: int | None = None
    memory_reservation: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    oom_score_adj: int | None = None
    nano_cpus: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int | None = None  # -1 or 0: no limit
    blkio_weight: int | None = None
    shm_size: int = 64 * MIB
    ulimits: tuple[Ulimit, ...] = ()
    devices: tuple[DeviceRequest, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()


class RestartPolicy(_Config, frozen=True, kw_only=True):
    """`name`: no, on-failure, always, unless-stopped. `max_retries` counts for on-failure; 0 is no limit."""

    name: str = "no"
    max_retries: int = 0


class LogConfig(_Config, frozen=True, kw_only=True):
    """`driver`: json-file, cri or none. `max_size` in bytes (-1: never rotate), `max_files` counts the current one.

    A log in the Container Runtime Interface's format is written to `path` and rotated by whoever reads it.
    """

    driver: str = "json-file"
    path: str = ""  # cri: an absolute path; empty for the other drivers, which choose it
    max_size: int = -1
    max_files: int = 1


class HookRequest(_Config, frozen=True, kw_only=True):
    """A program that runs at a point of the container's life: `name` is the specification's (config.md, "Hooks")."""

    name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None  # seconds


class PodRequest(_Config, frozen=True, kw_only=True):
    """What makes a container a part of a pod. None in a field means: as any other container has it.

    A pod's sandbox is a container as well, whose process does nothing but hold the namespaces that the pod's
    containers share; it has no `sandbox` itself.
    """

    sandbox: str = ""  # the ID of the container that is the pod's sandbox
    message: bytes = b""  # the request as the front received it, which only the front can read
    handler: str = ""  # the runtime that was asked for
    ambient: tuple[str, ...] = ()  # capabilities that a process keeps through execve
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    strict_groups: bool = False  # of the image's /etc/group, nothing is added
    apparmor: str = ""  # a profile's name
    selinux: str = ""  # user:role:type:level
    hugepages: dict[str, int] = {}  # page size as the kernel names it (2MB): bytes
    unified: dict[str, str] = {}  # cgroup v2 files
    hooks: tuple[HookRequest, ...] = ()
    id_maps: tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]] | None = (
        None  # uids and gids as (container, host, size), of a user namespace
    )


class OciRuntime(_Config, frozen=True, kw_only=True):
    """A program with runc's command line that runs a container in place of Orlop's own runtime."""

    name: str  # what the front calls it
    path: str
    root: str = ""  # its --root; empty: a directory of the engine's state
    options: tuple[str, ...] = ()  # global options before the command


class ContainerConfig(_Config, frozen=True, kw_only=True):
    """Everything asked for at `create` and `run`. None in `command`, `entrypoint` and the like means: the image's."""

    image: str
    name: str = ""
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None  # () clears the image's
    env: tuple[str, ...] = ()  # "NAME=value"; "NAME" alone removes the image's
    working_dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False  # end standard input when the first attached client leaves
    stop_signal: str = ""
    stop_timeout: int | None = None  # seconds
    mounts: tuple[MountRequest, ...] = ()
    network: NetworkRequest = NetworkRequest()
    limits: Limits = Limits()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[
        str, ...
    ] = ()  # no-new-privileges, seccomp=FILE|unconfined, apparmor=, label=, systempaths=unconfined
    privileged: bool = False
    read_only: bool = False
    init: bool = False
    sysctls: dict[str, str] = {}
    restart: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    pid_mode: str = ""  # "" (private), host, container:<id>
    ipc_mode: str = ""  # "" (private), host, none, shareable, container:<id>
    uts_mode: str = ""  # "" (private), host
    userns_mode: str = ""  # "" (none), host, or "auto"
    cgroupns_mode: str = ""  # "" (private), private, host
    cgroup_parent: str = ""
    cgroup_manager: str = ""  # who makes its groups: "" (the engine), or systemd, in the slice `cgroup_parent`
    platform: str = ""
    runtime: str = ""
    log: LogConfig = LogConfig()
    checkpoint: str = ""  # an archive, or a directory with the same contents: the container goes on from there
    rootfs: str = ""  # a directory of the host that stands for the image; with it `image` is empty
    pod: PodRequest | None = None
    oci_runtime: OciRuntime | None = None

    @property
    def is_sandbox(self) -> bool:
        """Whether it asks for the sandbox of a pod."""
        return self.pod is not None and not self.pod.sandbox


class ExecConfig(_Config, frozen=True, kw_only=True):
    """What `exec` may ask for."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    tty: bool = False
    open_stdin: bool = False
    privileged: bool = False
    detach: bool = False
    detach_keys: str = ""
