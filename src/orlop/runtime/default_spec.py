"""The configuration that `spec` writes: a shell with a few capabilities, in namespaces of its own."""

from __future__ import annotations

import msgspec

from orlop.spec.hidden import MASKED_PATHS, READONLY_PATHS
from orlop.spec.runtime import (
    VERSION,
    Capabilities,
    DeviceCgroup,
    IDMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    RuntimeSpec,
    User,
)

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def default_config(rootless: bool = False, uid: int = 0, gid: int = 0, v1: bool = False) -> bytes:
    """`default_spec` as JSON. The user's ids are there though they are zero: what edits a template looks for them.
    Where control groups are of version 1 there is no namespace of them, as in other runtimes' templates, to which it
    is added by those who want one."""
    config = msgspec.to_builtins(default_spec(rootless, uid, gid))
    config["process"]["user"] = {"uid": 0, "gid": 0}
    if v1:
        config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "cgroup"]
    return msgspec.json.encode(config)


def default_spec(rootless: bool = False, uid: int = 0, gid: int = 0) -> RuntimeSpec:
    """The whole configuration; `rootless` makes one that a user can run by mapping the own ids to root's."""
    namespaces = ["pid", "ipc", "uts", "mount", "cgroup", "user" if rootless else "network"]
    return RuntimeSpec(
        oci_version=VERSION,
        process=_process(),
        root=Root(path="rootfs", readonly=True),
        hostname="orlop",
        mounts=_mounts(rootless),
        linux=Linux(
            uid_mappings=(IDMapping(container_id=0, host_id=uid, size=1),) if rootless else (),
            gid_mappings=(IDMapping(container_id=0, host_id=gid, size=1),) if rootless else (),
            resources=None if rootless else Resources(devices=(DeviceCgroup(allow=False, access="rwm"),)),
            namespaces=tuple(Namespace(type=name) for name in namespaces),
            masked_paths=MASKED_PATHS,
            readonly_paths=READONLY_PATHS,
        ),
    )


def _process() -> Process:
    return Process(
        terminal=True,
        user=User(),
        args=("sh",),
        env=(_PATH, "TERM=xterm"),
        cwd="/",
        capabilities=Capabilities(bounding=_CAPABILITIES, effective=_CAPABILITIES, permitted=_CAPABILITIES),
        rlimits=(Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=1024),),
        no_new_privileges=True,
    )


def _mounts(rootless: bool) -> tuple[Mount, ...]:
    nothing = ("nosuid", "noexec", "nodev")
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")
    sys = Mount(destination="/sys", type="sysfs", source="sysfs", options=(*nothing, "ro"))
    if rootless:  # a new sysfs needs the network namespace that it shows
        sys = Mount(destination="/sys", source="/sys", options=("rbind", *nothing, "ro"))
    return (
        Mount(destination="/proc", type="proc", source="proc"),
        Mount(
            destination="/dev",
            type="tmpfs",
            source="tmpfs",
            options=("nosuid", "strictatime", "mode=755", "size=65536k"),
        ),
        Mount(destination="/dev/pts", type="devpts", source="devpts", options=pts if rootless else (*pts, "gid=5")),
        Mount(destination="/dev/shm", type="tmpfs", source="shm", options=(*nothing, "mode=1777", "size=65536k")),
        Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=nothing),
        sys,
        Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=(*nothing, "relatime", "ro")),
    )
