"""What the interface's server can be told to do otherwise."""

from __future__ import annotations

import msgspec

from orlop.cri.cgroups import Driver
from orlop.distribution.hosts import DIRECTORIES
from orlop.engine.config import OciRuntime


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults are those of a node that nobody has configured."""

    streaming_address: str = "127.0.0.1"
    streaming_port: int = 0  # 0: any that is free
    stream_idle_timeout: float = 4 * 3600.0  # seconds
    pinned_images: tuple[str, ...] = ()  # references; kubelet's garbage collection leaves them alone
    certs: tuple[str, ...] = tuple(map(str, DIRECTORIES))  # directories with a hosts.toml for each registry
    default_handler: str = "orlop"  # of pods that name none
    handlers: dict[str, OciRuntime] = {}  # other OCI runtimes by the name that a pod asks for
    cgroup_driver: Driver = "cgroupfs"  # who makes the groups of pods; the kubelet has to be told the same
    network: str = ""  # a network of the engine or a conflist by name; empty: the first conflist, else the bridge
    restore_images: bool = False  # images that hold a checkpoint may be restored: whoever names one decides all of it
