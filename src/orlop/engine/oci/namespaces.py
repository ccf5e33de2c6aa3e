"""Which namespaces a container has of its own, which it shares, and the sysctls that belong to them. Pure."""

from __future__ import annotations

from orlop.engine.config import ContainerConfig
from orlop.engine.oci.facts import ContainerFacts
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import Namespace

# kernel parameters that belong to a namespace: exact names, or prefixes that end in a dot
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)
_IPC_PREFIX, _NETWORK_PREFIX = "fs.mqueue.", "net."


def namespaces(config: ContainerConfig, facts: ContainerFacts) -> tuple[Namespace, ...]:
    result = [Namespace(type="mount")]
    if config.pod is not None and config.pod.id_maps is not None:
        result.insert(0, Namespace(type="user", path=_joined("userns", _user_mode(config), facts.user_namespace)))
    if config.network.mode != "host":
        result.append(Namespace(type="network", path=_joined("network", config.network.mode, facts.network_namespace)))
    if config.uts_mode != "host":
        result.append(Namespace(type="uts", path=_joined("uts", config.uts_mode, facts.uts_namespace)))
    if config.pid_mode != "host":
        result.append(Namespace(type="pid", path=_joined("pid", config.pid_mode, facts.pid_namespace)))
    if config.ipc_mode != "host":
        result.append(Namespace(type="ipc", path=_joined("ipc", config.ipc_mode, facts.ipc_namespace)))
    if config.cgroupns_mode != "host":
        result.append(Namespace(type="cgroup"))
    return tuple(result)


def _user_mode(config: ContainerConfig) -> str:
    """A pod's sandbox makes its user namespace, and its containers join that."""
    return f"container:{config.pod.sandbox}" if config.pod is not None and config.pod.sandbox else ""


def _joined(kind: str, mode: str, path: str) -> str:
    """The path of the namespace for `container:ID`; a missing one must not quietly become a new namespace."""
    if mode.startswith("container:") and not path:
        raise InvalidArgument(f"{kind}: the namespace of {mode[:80]} is not known; is it running?")
    return path if mode.startswith("container:") else ""


def own_network(config: ContainerConfig) -> bool:
    return config.network.mode != "host" and not config.network.mode.startswith("container:")


def sysctls(config: ContainerConfig) -> dict[str, str]:
    """Docker's two defaults for a network namespace of its own, then what is asked for."""
    defaults: dict[str, str] = {}
    if own_network(config):
        defaults = {
            # ping without CAP_NET_RAW, and ports below 1024 without CAP_NET_BIND_SERVICE
            "net.ipv4.ping_group_range": f"0 {_last_group(config)}",
            "net.ipv4.ip_unprivileged_port_start": "0",
        }
    asked = {name.replace("/", "."): value for name, value in config.sysctls.items()}
    for name, value in asked.items():
        _check_sysctl(name, value, config)
    return defaults | asked


def _last_group(config: ContainerConfig) -> int:
    """Of those that can be named: in a user namespace only what is mapped there."""
    gids = config.pod.id_maps[1] if config.pod is not None and config.pod.id_maps is not None else ()
    return next((size - 1 for inside, _, size in gids if inside == 0), (1 << 31) - 1)


def _check_sysctl(name: str, value: str, config: ContainerConfig) -> None:
    if ".." in name or name.endswith(".") or any(character in name + value for character in "\0\n"):
        raise InvalidArgument(f"invalid sysctl {name[:64]!r}")
    if name in _IPC_SYSCTLS or name.startswith(_IPC_PREFIX):
        if config.ipc_mode == "host":
            raise InvalidArgument(f"sysctl {name!r} not allowed in host ipc namespace")
    elif name.startswith(_NETWORK_PREFIX):
        if config.network.mode == "host":
            raise InvalidArgument(f"sysctl {name!r} not allowed in host network namespace")
    else:
        raise InvalidArgument(f"sysctl {name[:64]!r} is not allowed: it belongs to no namespace of the container")


def hostname(config: ContainerConfig, facts: ContainerFacts) -> str:
    """The name the container's processes see: given, that of whom it shares UTS or network with, or its short ID."""
    shares = config.uts_mode == "host" or config.uts_mode.startswith("container:") or not own_network(config)
    return config.hostname or (facts.hostname if shares else "") or facts.id[:12]
