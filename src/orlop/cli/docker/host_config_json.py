"""`HostConfig` of a container (Engine API, HostConfig). Pure."""

from __future__ import annotations

from typing import Any

from orlop.engine.config import ContainerConfig, MountRequest, NetworkRequest
from orlop.engine.records import Container

Json = dict[str, Any]


def host_config(container: Container) -> Json:
    """What the user asked of the host, by Docker's names; nought and null where nothing was asked."""
    config = container.config
    return {
        "Binds": [_bind(m) for m in config.mounts if m.type in ("bind", "volume") and m.source] or None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": config.log.driver, "Config": _log_options(config)},
        "NetworkMode": config.network.mode,
        "PortBindings": port_bindings(config.network),
        "RestartPolicy": {"Name": config.restart.name, "MaximumRetryCount": config.restart.max_retries},
        "AutoRemove": config.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "Annotations": config.annotations,
        "CapAdd": list(config.cap_add) or None,
        "CapDrop": list(config.cap_drop) or None,
        "CgroupnsMode": config.cgroupns_mode or "private",
        "Dns": list(config.network.dns),
        "DnsOptions": list(config.network.dns_options),
        "DnsSearch": list(config.network.dns_search),
        "ExtraHosts": list(config.network.extra_hosts) or None,
        "GroupAdd": list(config.groups) or None,
        "IpcMode": config.ipc_mode or "private",
        "Links": None,
        "PidMode": config.pid_mode,
        "Privileged": config.privileged,
        "PublishAllPorts": config.network.publish_all,
        "ReadonlyRootfs": config.read_only,
        "SecurityOpt": list(config.security_opt) or None,
        "Tmpfs": {m.target: ",".join(m.options) for m in config.mounts if m.type == "tmpfs"},
        "UTSMode": config.uts_mode,
        "UsernsMode": config.userns_mode,
        "Init": config.init,
        "Sysctls": config.sysctls,
        "Runtime": config.runtime or "orlop",
        **_limits(config),
    }


def _limits(config: ContainerConfig) -> Json:
    limits = config.limits
    return {
        "ShmSize": limits.shm_size,
        "CgroupParent": config.cgroup_parent,
        "CpuShares": limits.cpu_shares or 0,
        "Memory": limits.memory or 0,
        "NanoCpus": limits.nano_cpus or 0,
        "BlkioWeight": limits.blkio_weight or 0,
        "CpuPeriod": limits.cpu_period or 0,
        "CpuQuota": limits.cpu_quota or 0,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "Devices": [
            {"PathOnHost": d.source, "PathInContainer": d.target, "CgroupPermissions": d.access} for d in limits.devices
        ],
        "DeviceCgroupRules": list(limits.device_cgroup_rules) or None,
        "MemoryReservation": limits.memory_reservation or 0,
        "MemorySwap": limits.memory_swap or 0,
        "MemorySwappiness": limits.memory_swappiness,
        "OomKillDisable": limits.oom_kill_disable,
        "OomScoreAdj": limits.oom_score_adj or 0,
        "PidsLimit": limits.pids,
        "Ulimits": [{"Name": u.name, "Hard": u.hard, "Soft": u.soft} for u in limits.ulimits],
    }


def port_bindings(request: NetworkRequest) -> Json:
    """`{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`, as asked for; what was given stands in NetworkSettings."""
    found: dict[str, list[Json]] = {}
    for port in request.ports:
        entry = {"HostIp": port.host_address, "HostPort": str(port.host_port) if port.host_port else ""}
        found.setdefault(f"{port.container_port}/{port.protocol}", []).append(entry)
    return found


def _bind(mount: MountRequest) -> str:
    options = [text for text, on in (("ro", mount.read_only), (mount.propagation, mount.propagation)) if on]
    return ":".join([mount.source, mount.target, *([",".join(options)] if options else [])])


def _log_options(config: ContainerConfig) -> dict[str, str]:
    options = {"max-size": str(config.log.max_size)} if config.log.max_size >= 0 else {}
    return options | ({"max-file": str(config.log.max_files)} if config.log.max_files > 1 else {})
