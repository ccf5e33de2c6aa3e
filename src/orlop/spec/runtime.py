"""Types of runtime-spec 1.3: `config.json` (config.md, config-linux.md) and the state (runtime.md).

Field names are the specification's, in snake case. A field that is absent is None, or empty where the specification
gives absence and emptiness one meaning. Sections for other systems (`solaris`, `windows`, `vm`, `zos`, `freebsd`)
are kept as plain JSON so that they can be refused by name.
"""

# No `from __future__ import annotations`: what msgspec decodes into it would have to compile at every start.

from typing import Any, Literal

import msgspec

from orlop.spec.document import Document, parse

VERSION = "1.3.0"


class _Spec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    pass


class Root(_Spec, frozen=True, kw_only=True):
    path: str
    readonly: bool = False


class IDMapping(_Spec, frozen=True, kw_only=True):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class Mount(_Spec, frozen=True, kw_only=True):
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class ConsoleSize(_Spec, frozen=True, kw_only=True):
    height: int
    width: int


class User(_Spec, frozen=True, kw_only=True):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str = ""


class Capabilities(_Spec, frozen=True, kw_only=True):
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Spec, frozen=True, kw_only=True):
    type: str
    soft: int
    hard: int


class Scheduler(_Spec, frozen=True, kw_only=True):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int | None = None
    deadline: int | None = None
    period: int | None = None


class IOPriority(_Spec, frozen=True, kw_only=True):
    class_: str = msgspec.field(name="class")
    priority: int = 0


class ExecCPUAffinity(_Spec, frozen=True, kw_only=True):
    initial: str = ""
    final: str = ""


class Process(_Spec, frozen=True, kw_only=True):
    cwd: str
    args: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = User()
    env: tuple[str, ...] = ()
    command_line: str = ""
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = msgspec.field(default=None, name="execCPUAffinity")


class Hook(_Spec, frozen=True, kw_only=True):
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(_Spec, frozen=True, kw_only=True):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(_Spec, frozen=True, kw_only=True):
    type: str
    path: str = ""


class Device(_Spec, frozen=True, kw_only=True):
    type: str
    path: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class NetDevice(_Spec, frozen=True, kw_only=True):
    name: str = ""


class DeviceCgroup(_Spec, frozen=True, kw_only=True):
    allow: bool
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(_Spec, frozen=True, kw_only=True):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(_Spec, frozen=True, kw_only=True):
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class WeightDevice(_Spec, frozen=True, kw_only=True):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_Spec, frozen=True, kw_only=True):
    major: int
    minor: int
    rate: int


class BlockIO(_Spec, frozen=True, kw_only=True):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(default=(), name="throttleReadIOPSDevice")
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(default=(), name="throttleWriteIOPSDevice")


class HugepageLimit(_Spec, frozen=True, kw_only=True):
    page_size: str
    limit: int


class InterfacePriority(_Spec, frozen=True, kw_only=True):
    name: str
    priority: int


class NetworkResources(_Spec, frozen=True, kw_only=True):
    class_id: int | None = msgspec.field(default=None, name="classID")
    priorities: tuple[InterfacePriority, ...] = ()


class Pids(_Spec, frozen=True, kw_only=True):
    limit: int | None = None


class Rdma(_Spec, frozen=True, kw_only=True):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(_Spec, frozen=True, kw_only=True):
    devices: tuple[DeviceCgroup, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkResources | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SeccompArg(_Spec, frozen=True, kw_only=True):
    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompRule(_Spec, frozen=True, kw_only=True):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(_Spec, frozen=True, kw_only=True):
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompRule, ...] = ()


class IntelRdt(_Spec, frozen=True, kw_only=True):
    clos_id: str = msgspec.field(default="", name="closID")
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = ""
    enable_cmt: bool = msgspec.field(default=False, name="enableCMT")
    enable_mbm: bool = msgspec.field(default=False, name="enableMBM")
    enable_monitoring: bool = False


class MemoryPolicy(_Spec, frozen=True, kw_only=True):
    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


class Personality(_Spec, frozen=True, kw_only=True):
    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(_Spec, frozen=True, kw_only=True):
    secs: int = 0
    nanosecs: int = 0


class Linux(_Spec, frozen=True, kw_only=True):
    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    time_offsets: dict[str, TimeOffset] = {}
    devices: tuple[Device, ...] = ()
    net_devices: dict[str, NetDevice] = {}
    cgroups_path: str = ""
    resources: Resources | None = None
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    sysctl: dict[str, str] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    personality: Personality | None = None


class RuntimeSpec(_Spec, frozen=True, kw_only=True):
    """`config.json` of a bundle."""

    oci_version: str
    root: Root | None = None
    process: Process | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None
    solaris: Any = None
    windows: Any = None
    vm: Any = None
    zos: Any = None
    freebsd: Any = None


class State(_Spec, frozen=True, kw_only=True):
    """What `state` prints and hooks read on standard input (runtime.md, "State")."""

    oci_version: str
    id: str
    status: Literal["creating", "created", "running", "stopped", "paused"]
    pid: int = 0
    bundle: str
    annotations: dict[str, str] = {}


def parse_runtime_spec(raw: bytes, what: str = "config.json") -> Document[RuntimeSpec]:
    """Read a bundle's `config.json`."""
    return parse(raw, RuntimeSpec, what)
