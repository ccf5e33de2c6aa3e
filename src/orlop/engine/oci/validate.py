"""Whether a request makes sense in itself, whatever the host. Pure. The wording is Docker's."""

from __future__ import annotations

import re

from orlop.engine.config import ContainerConfig, MountRequest, RestartPolicy
from orlop.engine.oci import security
from orlop.engine.oci.mounts import bind_flags, check_propagation, target_of, tmpfs_options
from orlop.engine.oci.namespaces import own_network, sysctls
from orlop.engine.oci.process import environment, rlimit, working_directory
from orlop.engine.oci.resources import check_limits
from orlop.spec import capabilities
from orlop.spec.errors import InvalidArgument, Unimplemented
from orlop.spec.image import ContainerDefaults
from orlop.spec.signals import parse_signal

NAME = r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+"
_HOSTNAME = r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9_])?"
_CONTROL = frozenset(map(chr, (*range(32), 127)))
PROTOCOLS = ("tcp", "udp", "sctp")  # whose ports can be published
_RESTART = ("no", "always", "on-failure", "unless-stopped")

# field: (the modes it may have besides container:<id>, whether container:<id> is one)
_MODES: dict[str, tuple[tuple[str, ...], bool]] = {
    "pid_mode": (("", "host"), True),
    "ipc_mode": (("", "private", "host", "none", "shareable"), True),
    "uts_mode": (("", "host"), True),
    "userns_mode": (("", "host"), False),
    "cgroupns_mode": (("", "private", "host"), False),
}


def validate(config: ContainerConfig) -> None:
    """Raise InvalidArgument for what is wrong or contradictory, and Unimplemented for what is not done yet."""
    if config.name and not re.fullmatch(NAME, config.name):
        raise InvalidArgument(
            f"invalid container name ({config.name[:128]!r}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
    _check_names(config)
    _check_modes(config)
    _check_network(config)
    _check_ports(config)
    check_restart(config.restart, config.auto_remove)
    _check_mounts(config)
    _check_process(config)
    check_limits(config.limits, config.pod is not None)
    security.options(config)
    capabilities.resolve(config.cap_add, config.cap_drop)
    sysctls(config)


def _check_names(config: ContainerConfig) -> None:
    for value, what in ((config.hostname, "hostname"), (config.domainname, "domainname")):
        if value and not re.fullmatch(_HOSTNAME, value):
            raise InvalidArgument(f"invalid {what} format: {value[:80]!r}")
    for pairs, what in ((config.labels, "label"), (config.annotations, "annotation")):
        if any(not name or "\0" in name + value for name, value in pairs.items()):
            raise InvalidArgument(f"invalid {what}: the name is empty or contains a NUL character")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if config.stop_timeout is not None and config.stop_timeout < -1:
        raise InvalidArgument(f"invalid stop timeout: {config.stop_timeout}")
    if config.log.driver == "cri" and not config.log.path.startswith("/"):
        raise InvalidArgument("log: a log in cri format needs an absolute path")
    if config.log.driver not in ("json-file", "cri", "none"):
        raise Unimplemented(f"logger: no log driver named {config.log.driver[:32]!r} is registered")
    parent = config.cgroup_parent
    if ".." in parent.split("/") or not _CONTROL.isdisjoint(parent):
        raise InvalidArgument(f"invalid cgroup parent: {config.cgroup_parent[:80]!r}")


def _check_modes(config: ContainerConfig) -> None:
    for field, (known, joins) in _MODES.items():
        mode = getattr(config, field)
        what = field.replace("_mode", "")
        if mode in known or (joins and _is_container(mode) and (field != "uts_mode" or config.pod)):
            continue
        if field == "userns_mode":
            raise Unimplemented(f"userns: mode {mode[:32]!r} is not supported")
        raise InvalidArgument(f"invalid {what} mode: {mode[:80]!r}")


def _is_container(mode: str) -> bool:
    return mode.startswith("container:") and len(mode) > len("container:")


def _check_network(config: ContainerConfig) -> None:
    network, mode = config.network, config.network.mode
    if not _CONTROL.isdisjoint(mode) or " " in mode or mode == "container:":
        raise InvalidArgument(f"invalid network mode: {mode[:80]!r}")
    if mode.startswith("container:"):
        for present, what in (
            (config.hostname, "hostname and the network mode"),
            (network.dns or network.dns_search or network.dns_options, "dns and the network mode"),
            (network.extra_hosts, "custom host-to-IP mapping and the network mode"),
            (network.mac_address, "mac-address and the network mode"),
            (network.ports or network.publish_all, "port publishing and the container type network mode"),
            (network.expose, "port exposing and the container type network mode"),
        ):
            _conflict(bool(present), what)
    if mode in ("host", "none"):
        _conflict(bool(network.ports or network.publish_all), f"port publishing and the {mode} network mode")
    if not own_network(config) or mode == "none":
        _conflict(bool(network.mac_address), "mac-address and the network mode")
        _conflict(bool(network.address or network.address6), "ip address and the network mode")
    _conflict(config.uts_mode == "host" and bool(config.hostname), "hostname and the UTS mode")
    _conflict(config.uts_mode == "host" and bool(config.domainname), "domainname and the UTS mode")
    for entry in network.extra_hosts:
        name, separator, address = entry.replace("=", ":", 1).partition(":")
        if not name or not separator or not address or not _CONTROL.isdisjoint(entry) or " " in entry:
            raise InvalidArgument(f"bad format for add-host: {entry[:80]!r}")


def _conflict(present: bool, what: str) -> None:
    if present:
        raise InvalidArgument(f"conflicting options: {what}")


def _check_ports(config: ContainerConfig) -> None:
    seen: set[tuple[str, int, str]] = set()
    for port in config.network.ports:
        if port.protocol not in PROTOCOLS:
            raise InvalidArgument(f"invalid proto: {port.protocol[:32]}")
        if not 1 <= port.container_port <= 65535:
            raise InvalidArgument(f"invalid containerPort: {port.container_port}")
        if not 0 <= port.host_port <= 65535:
            raise InvalidArgument(f"invalid hostPort: {port.host_port}")
        key = (port.host_address, port.host_port, port.protocol)
        if port.host_port and key in seen:
            raise InvalidArgument(f"port {port.host_port}/{port.protocol} is published twice")
        seen.add(key)
    for entry in config.network.expose:
        number, _, protocol = entry.partition("/")
        parts = number.split("-")
        if len(parts) > 2 or not all(p.isascii() and p.isdigit() and 1 <= int(p[:6]) <= 65535 for p in parts):
            raise InvalidArgument(f"invalid range format for --expose: {entry[:32]}")
        if protocol not in ("", *PROTOCOLS):
            raise InvalidArgument(f"invalid proto: {protocol[:32]}")


def check_restart(policy: RestartPolicy, auto_remove: bool) -> None:
    if policy.name not in ("", *_RESTART):
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name[:32]}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.max_retries < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if policy.max_retries and policy.name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if auto_remove and policy.name not in ("", "no"):
        raise InvalidArgument("conflicting options: cannot specify both --restart and --rm")


def _check_mounts(config: ContainerConfig) -> None:
    seen: set[str] = set()
    for request in config.mounts:
        target = target_of(request)
        if target in seen:
            raise InvalidArgument(f"duplicate mount point: {target}")
        seen.add(target)
        if request.type == "image" and config.pod is None:
            raise InvalidArgument("mount type unknown: 'image'")
        _check_mount(request)


def _check_mount(request: MountRequest) -> None:
    what = f'invalid mount config for type "{request.type[:16]}"'
    if request.type not in ("bind", "volume", "tmpfs", "image"):
        raise InvalidArgument(f"mount type unknown: {request.type[:32]!r}")
    if request.type == "bind" and (not request.source.startswith("/") or "\0" in request.source):
        raise InvalidArgument(f"{what}: invalid mount path: {request.source[:128]!r} mount path must be absolute")
    if request.type == "volume" and request.source and not re.fullmatch(NAME, request.source):
        raise InvalidArgument(
            f"{request.source[:80]!r} includes invalid characters for a local volume name, only "
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
        )
    if request.type == "tmpfs":
        if request.source:
            raise InvalidArgument(f'{what}: field Source must not be specified for type "tmpfs"')
        if request.size is not None and request.size < 0:
            raise InvalidArgument(f"{what}: invalid size {request.size}")
        tmpfs_options(request)
    elif request.type in ("bind", "image"):
        bind_flags(request)
    elif request.options:
        raise InvalidArgument(f"{what}: options are for a tmpfs or a bind mount")
    if request.type != "tmpfs" and (request.size is not None or request.mode is not None):
        raise InvalidArgument(f"{what}: size and mode are for a tmpfs")
    if request.type != "bind" and request.propagation:
        raise InvalidArgument(f"{what}: propagation is for a bind mount")
    check_propagation(request.propagation)


def _check_process(config: ContainerConfig) -> None:
    working_directory(config.working_dir)
    environment(config, ContainerDefaults(), "", "")
    for text in (*(config.command or ()), *(config.entrypoint or ()), config.user, *config.groups):
        if "\0" in text:
            raise InvalidArgument("command and user must not contain a NUL character")
    for limit in config.limits.ulimits:
        rlimit(limit)
