"""What turning a request into a configuration must know of host and image, handed in so that it stays pure."""

from __future__ import annotations

import msgspec

from orlop.engine.users import Identity
from orlop.spec import capabilities


class HostDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device node of the host: `path` is where it appears in the container."""

    path: str
    type: str  # b or c
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    access: str = "rwm"


class ContainerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about one container and its host. An empty path means: there is none, nothing is bound or joined."""

    id: str
    identity: Identity = Identity()
    root: str = "rootfs"  # root.path of the configuration
    cgroup_path: str = ""
    # the host
    machine: str = "x86_64"  # uname -m
    kernel: tuple[int, int] = (5, 10)
    processors: int = 0  # 0: unknown, and then not checked
    available_capabilities: int = capabilities.ALL  # mask: what this process may hand on
    cgroup_v2: bool = False
    # the name it has; for host and container:ID networks that of whom it shares them with
    hostname: str = ""
    # files and directories of the host that are bound in
    hosts_file: str = ""
    hostname_file: str = ""
    resolv_conf: str = ""
    shm: str = ""  # instead of a /dev/shm of its own: the host's, or that of the container whose IPC it joins
    init_path: str = ""
    images: dict[str, str] = {}  # target of an image mount: where its files are
    volumes: dict[str, str] = {}  # target of a volume mount, as requested: directory on the host
    # namespaces to join
    network_namespace: str = ""
    pid_namespace: str = ""
    ipc_namespace: str = ""
    uts_namespace: str = ""
    user_namespace: str = ""
    # nodes for `--device`, or with --privileged all of the host's
    devices: tuple[HostDevice, ...] = ()
