"""Requests of the interface as requests to the engine. Pure: what only host or image know is not looked up here."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import mounts, security, userns
from orlop.cri.network_request import network_request
from orlop.engine.config import (
    ContainerConfig,
    DeviceRequest,
    Limits,
    LogConfig,
    NetworkRequest,
    PodRequest,
)
from orlop.spec.errors import InvalidArgument

HANDLER = "orlop"
SHM_SIZE = 64 << 20
_SANDBOX_USER = 65535
_NOT_IN_NAMES = frozenset("/ ;=")
_LONGEST = 253  # of a name, as Kubernetes has them
_LABELS_MAX = 1 << 20  # bytes of labels, and of annotations, all told: Kubernetes lets pass 256 KiB
_GROUPS_MAX = 65536  # that a process can have (setgroups(2), NGROUPS_MAX)
_PATH_MAX, _NAME_MAX = 4096, 255  # bytes of a path, and of one name in it (limits.h)


def sandbox_name(metadata: api.PodSandboxMetadata) -> str:
    """`name_namespace_uid_attempt`: what no other sandbox may be called."""
    for what in ("name", "namespace", "uid"):
        _check_name(getattr(metadata, what), f"config.metadata.{what}")
    return f"{metadata.name}_{metadata.namespace}_{metadata.uid}_{metadata.attempt}"


def container_name(metadata: api.ContainerMetadata, sandbox: str) -> str:
    """`name_sandbox_attempt`, unique in its pod."""
    _check_name(metadata.name, "config.metadata.name")
    return f"{metadata.name}_{sandbox}_{metadata.attempt}"


def _check_name(name: str, what: str) -> None:
    if not name:
        raise InvalidArgument(f"{what} is missing")
    if len(name) > _LONGEST or not name.isprintable() or not _NOT_IN_NAMES.isdisjoint(name) or name.startswith("."):
        raise InvalidArgument(f"{what} {name[:64]!r}: no name that Kubernetes allows")


def _check_labels(config: api.PodSandboxConfig | api.ContainerConfig) -> None:
    """Every list carries them: those of one pod must not make the lists of a node larger than a client takes."""
    for field, values in (("labels", config.labels), ("annotations", config.annotations)):
        size = sum(len(name) + len(value) for name, value in values.items())
        if size > _LABELS_MAX:
            raise InvalidArgument(f"config.{field}: {size} characters, {_LABELS_MAX} are the most")


# --- pods


def sandbox(request: api.RunPodSandboxRequest, network: str) -> ContainerConfig:
    """The sandbox that RunPodSandbox asks for; `network` is the network of pods that have one of their own."""
    config = request.config
    if not request.HasField("config") or not config.HasField("metadata"):
        raise InvalidArgument("config.metadata is missing")
    name = sandbox_name(config.metadata)
    _check_labels(config)
    context = config.linux.security_context
    options = context.namespace_options
    if config.HasField("windows"):
        raise InvalidArgument("config.windows: this is no Windows node")
    host_network = _shared_with_node(options.network, "network", (api.POD, api.NODE))
    host_ipc = _shared_with_node(options.ipc, "ipc", (api.POD, api.NODE))
    host_pid = _shared_with_node(options.pid, "pid", (api.POD, api.CONTAINER, api.NODE))
    id_maps = userns.of_sandbox(options)
    profiles = security.profiles(context)
    hostname = "" if host_network else config.hostname
    return ContainerConfig(
        image="",
        name=name,
        hostname=hostname,
        user=_user(context) or userns.sandbox_user(id_maps, _SANDBOX_USER),
        groups=_groups(context.supplemental_groups),
        labels=dict(config.labels),
        annotations=_annotations(config, "sandbox", ""),
        network=network_request(config, "host" if host_network else network),
        ipc_mode="host" if host_ipc else "shareable",
        pid_mode="host" if host_pid else "",
        uts_mode="host" if host_network else "",
        limits=Limits(oom_score_adj=-998, shm_size=SHM_SIZE),
        cap_drop=("ALL",),
        security_opt=("no-new-privileges", *_sandbox_seccomp(profiles)),
        sysctls=dict(config.linux.sysctls),
        cgroup_parent=config.linux.cgroup_parent,
        log=LogConfig(driver="none"),
        pod=PodRequest(
            message=request.SerializeToString(deterministic=True),
            handler=request.runtime_handler,
            masked_paths=(),  # nothing is mounted that would have to be hidden from it
            readonly_paths=(),
            id_maps=id_maps,
            apparmor=profiles.apparmor,
            selinux=profiles.selinux,
        ),
    )


def _sandbox_seccomp(asked: security.Profiles) -> tuple[str, ...]:
    """Its process needs no more than the default profile lets pass."""
    return (f"seccomp={asked.seccomp}",) if asked.seccomp not in ("", "default") else ()


def _shared_with_node(mode: int, kind: str, allowed: tuple[int, ...]) -> bool:
    if mode not in allowed:
        name = api.NamespaceMode.Name(mode) if mode in api.NamespaceMode.values() else str(mode)
        raise InvalidArgument(f"namespace_options.{kind}: {name} is not possible here")
    return mode == api.NODE


def _annotations(config: api.PodSandboxConfig, kind: str, sandbox: str) -> dict[str, str]:
    """What hooks and other runtimes look for in a configuration; the names are those that containerd has made usual."""
    prefix = "io.kubernetes.cri."
    values = {
        "container-type": kind,
        "sandbox-id": sandbox,
        "sandbox-name": config.metadata.name,
        "sandbox-namespace": config.metadata.namespace,
        "sandbox-uid": config.metadata.uid,
    }
    return {prefix + name: value for name, value in values.items() if value}


# --- containers


def container(
    request: api.CreateContainerRequest, pod: api.RunPodSandboxRequest, sandbox_id: str, target_pid_mode: str = ""
) -> ContainerConfig:
    """The container that CreateContainer asks for, in the sandbox that `pod` asked for."""
    config = request.config
    if not request.HasField("config") or not config.HasField("metadata"):
        raise InvalidArgument("config.metadata is missing")
    if not config.image.image:
        raise InvalidArgument("config.image.image is missing")
    if config.HasField("windows"):
        raise InvalidArgument("config.windows: this is no Windows node")
    _check_labels(config)
    context = config.linux.security_context
    profiles = security.profiles(context)
    pod_security = pod.config.linux.security_context
    options = context.namespace_options
    if context.privileged and not pod_security.privileged:
        raise InvalidArgument("config.linux.security_context.privileged: the pod sandbox was not made for it")
    for kind, allowed in (("pid", api.NamespaceMode.values()), ("ipc", (api.POD, api.NODE))):
        _shared_with_node(getattr(options, kind), kind, tuple(allowed))
    if context.supplemental_groups_policy not in api.SupplementalGroupsPolicy.values():
        raise InvalidArgument(f"supplemental_groups_policy: {context.supplemental_groups_policy} is not known")
    id_maps = userns.of_container(options, userns.of_sandbox(pod_security.namespace_options))
    shared = f"container:{sandbox_id}"
    host_network = pod_security.namespace_options.network == api.NODE
    return ContainerConfig(
        image=config.image.image,
        name=container_name(config.metadata, sandbox_id),
        command=tuple(config.args) or None,
        entrypoint=tuple(config.command) or None,
        env=_environment(config.envs),
        working_dir=config.working_dir,
        user=_user(context),
        groups=_groups(context.supplemental_groups),
        labels=dict(config.labels),
        annotations=_annotations(pod.config, "container", sandbox_id)
        | {"io.kubernetes.cri.container-name": config.metadata.name},
        tty=config.tty,
        open_stdin=config.stdin,
        stdin_once=config.stdin_once,
        stop_signal=_stop_signal(config.stop_signal),
        mounts=tuple(mounts.mount(mount, f"config.mounts[{index}]") for index, mount in enumerate(config.mounts)),
        network=NetworkRequest(mode="host" if host_network else shared),
        limits=limits(config),
        cap_add=tuple(context.capabilities.add_capabilities),
        cap_drop=tuple(context.capabilities.drop_capabilities),
        security_opt=_security(profiles, context.privileged, context.no_new_privs),
        privileged=context.privileged,
        read_only=context.readonly_rootfs,
        pid_mode=_pid_mode(options.pid, shared, target_pid_mode),
        ipc_mode="host" if options.ipc == api.NODE else shared,
        uts_mode="host" if host_network else shared,
        cgroup_parent=pod.config.linux.cgroup_parent,
        log=_log(pod.config.log_directory, config.log_path),
        pod=PodRequest(
            sandbox=sandbox_id,
            message=request.SerializeToString(deterministic=True),
            handler=pod.runtime_handler,
            ambient=tuple(context.capabilities.add_ambient_capabilities),
            masked_paths=tuple(context.masked_paths),
            readonly_paths=tuple(context.readonly_paths),
            strict_groups=context.supplemental_groups_policy == api.Strict,
            hugepages={limit.page_size: limit.limit for limit in config.linux.resources.hugepage_limits},
            unified=dict(config.linux.resources.unified),
            id_maps=id_maps,
            apparmor=profiles.apparmor,
            selinux=profiles.selinux,
        ),
    )


def _environment(envs: Iterable[api.KeyValue]) -> tuple[str, ...]:
    result = []
    for index, pair in enumerate(envs):
        where = f"config.envs[{index}] ({pair.key[:64]!r})"
        if not pair.key or "=" in pair.key or "\0" in pair.key:
            raise InvalidArgument(f"{where}: not a name of a variable")
        try:
            value = pair.value.decode()
        except UnicodeDecodeError:  # others put U+FFFD in place of it, and the program gets what nobody has written
            raise InvalidArgument(f"{where}: not UTF-8, which a container's configuration can't hold") from None
        if "\0" in value:
            raise InvalidArgument(f"{where}: has a NUL in it")
        result.append(f"{pair.key}={value}")
    return tuple(result)


def _user(security: api.LinuxSandboxSecurityContext | api.LinuxContainerSecurityContext) -> str:
    """`user:group` for the engine; "" leaves it to the image."""
    user = security.run_as_username if isinstance(security, api.LinuxContainerSecurityContext) else ""
    if security.HasField("run_as_user"):
        if user:
            raise InvalidArgument("run_as_user and run_as_username exclude each other")
        user = str(security.run_as_user.value)
    if not security.HasField("run_as_group"):
        return user
    if not user:
        raise InvalidArgument("run_as_group: needs run_as_user or run_as_username")
    return f"{user}:{security.run_as_group.value}"


def _groups(groups: Sequence[int]) -> tuple[str, ...]:
    if any(not 0 <= group < 1 << 31 for group in groups):
        raise InvalidArgument("supplemental_groups: want numbers of 0 to 2147483647")
    if len(groups) > _GROUPS_MAX:
        raise InvalidArgument(f"supplemental_groups: {len(groups)} of them, a process can have {_GROUPS_MAX}")
    return tuple(str(group) for group in groups)


def _stop_signal(signal: int) -> str:
    """The name as the engine reads it: the interface's has SIG_ before, and PLUS and MINUS for signs."""
    if not signal:
        return ""
    if signal not in api.Signal.values():
        raise InvalidArgument(f"config.stop_signal: {signal} is no signal")
    return signal_name(signal)


def signal_name(signal: int) -> str:
    """A signal of the interface as the engine reads it."""
    name = api.Signal.Name(signal).removeprefix("SIGNAL_")
    return name.replace("RTMAXMINUS", "RTMAX-").replace("RTMINPLUS", "RTMIN+")


def limits(config: api.ContainerConfig) -> Limits:
    resources = config.linux.resources
    return Limits(
        cpu_period=resources.cpu_period or None,
        cpu_quota=resources.cpu_quota or None,
        cpu_shares=resources.cpu_shares or None,
        memory=resources.memory_limit_in_bytes or None,
        memory_swap=resources.memory_swap_limit_in_bytes or None,
        oom_score_adj=resources.oom_score_adj,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
        shm_size=SHM_SIZE,
        devices=tuple(
            DeviceRequest(source=d.host_path, target=d.container_path or d.host_path, access=d.permissions or "rwm")
            for d in config.devices
        ),
    )


def _security(asked: security.Profiles, privileged: bool, no_new_privileges: bool) -> tuple[str, ...]:
    """A container that names no seccomp profile has none, as kubelet means it."""
    found = ["no-new-privileges"] if no_new_privileges else []
    if privileged or asked.seccomp in ("", "unconfined"):
        found.append("seccomp=unconfined")
    elif asked.seccomp != "default":
        found.append(f"seccomp={asked.seccomp}")
    return tuple(found)


def _pid_mode(mode: int, shared: str, target: str) -> str:
    if mode == api.TARGET:
        return target
    if mode == api.NODE:
        return "host"
    return shared if mode == api.POD else ""


def _log(directory: str, path: str) -> LogConfig:
    if not directory or not path:
        return LogConfig(driver="none")
    if not directory.startswith("/") or ".." in path.split("/"):
        raise InvalidArgument("config.log_path: want a path within the sandbox's absolute log_directory")
    whole = posixpath.join(directory, path.lstrip("/"))
    if "\0" in whole:
        raise InvalidArgument("config.log_path: has a NUL in it")
    if posixpath.basename(whole) in ("", "."):
        raise InvalidArgument(f"config.log_path {path[:64]!r}: names no file")
    if len(whole.encode()) >= _PATH_MAX or any(len(name.encode()) > _NAME_MAX for name in whole.split("/")):
        raise InvalidArgument(f"config.log_path {path[:64]!r}...: too long for a path")
    return LogConfig(driver="cri", path=whole)
