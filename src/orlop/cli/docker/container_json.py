"""A container as `docker inspect` shows it (Engine API, ContainerInspect). Pure."""

from __future__ import annotations

from typing import Any

from orlop.cli.docker.command_text import arguments
from orlop.cli.docker.host_config_json import host_config, port_bindings
from orlop.cli.docker.moments import rfc3339
from orlop.cli.docker.network_json import network_settings
from orlop.cli.docker.status import state
from orlop.engine.config import MountRequest
from orlop.engine.inspect import Details
from orlop.engine.records import Container
from orlop.snapshots.mounts import Overlay

Json = dict[str, Any]


def container_json(details: Details, sizes: tuple[int, int] | None = None) -> Json:
    """All of it. `sizes` are the bytes of the writable layer and of all layers, where they were asked for (-s)."""
    container, directory = details.container, details.directory
    command = arguments(container.config, details.image.config if details.image else None)
    extra = {"SizeRw": sizes[0], "SizeRootFs": sizes[1]} if sizes else {}
    return {
        "Id": container.id,
        "Created": rfc3339(container.created),
        "Path": command[0] if command else "",
        "Args": list(command[1:]),
        "State": _state(container),
        "Image": container.record.image_id,
        "ResolvConfPath": f"{directory}/resolv.conf",
        "HostnamePath": f"{directory}/hostname",
        "HostsPath": f"{directory}/hosts",
        "LogPath": details.log,
        "Name": f"/{container.name}",
        "RestartCount": container.record.restart_count,
        "Driver": details.snapshotter,
        "Platform": details.image.platform.os if details.image else "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": host_config(container),
        "GraphDriver": _graph_driver(details),
        **extra,
        "Mounts": _mounts(details),
        "Config": _config(details),
        "NetworkSettings": network_settings(details),
        "Orlop": _own(details),
    }


def _state(container: Container) -> Json:
    record, word = container.record, state(container)
    return {
        "Status": word,
        "Running": word in ("running", "paused"),
        "Paused": word == "paused",
        "Restarting": word == "restarting",
        "OOMKilled": record.oom_killed,
        "Dead": word == "dead",
        "Pid": record.pid,
        "ExitCode": record.exit_code,
        "Error": record.error,
        "StartedAt": rfc3339(record.started),
        "FinishedAt": rfc3339(record.finished),
    }


def _graph_driver(details: Details) -> Json:
    data: Json = {"ID": details.container.id}
    for mount in details.root_mounts[:1]:
        if isinstance(mount, Overlay):
            data |= {"LowerDir": ":".join(mount.lower), "UpperDir": mount.upper, "WorkDir": mount.work}
        else:
            data |= {"Dir": mount.source}
    return {"Data": data, "Name": details.snapshotter}


def _mounts(details: Details) -> list[Json]:
    """Volumes and binds; file systems in memory stand in HostConfig, as with Docker."""
    places = {place.target.rstrip("/"): place for place in details.volumes}
    found = [
        {
            "Type": "volume",
            "Name": place.name,
            "Source": place.source,
            "Destination": place.target,
            "Driver": place.driver,
            "Mode": "z" if not place.read_only else "ro",
            "RW": not place.read_only,
            "Propagation": "",
        }
        for place in details.volumes
    ]
    for mount in details.container.config.mounts:
        if mount.type == "volume" and mount.target.rstrip("/") in places:
            continue
        if mount.type in ("bind", "tmpfs"):
            found.append(_mount(mount))
    return found


def _mount(mount: MountRequest) -> Json:
    return {
        "Type": mount.type,
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": "ro" if mount.read_only else "",
        "RW": not mount.read_only,
        "Propagation": (mount.propagation or "rprivate") if mount.type == "bind" else "",
    }


def _config(details: Details) -> Json:
    container = details.container
    config, process = container.config, details.spec.process if details.spec else None
    defaults = details.image.config.defaults if details.image else None
    command = config.command
    if command is None and config.entrypoint is None and defaults:
        command = defaults.cmd
    entrypoint = config.entrypoint if config.entrypoint is not None else (defaults.entrypoint if defaults else None)
    exposed = dict.fromkeys((*((defaults.exposed_ports if defaults else None) or ()), *config.network.expose))
    data: Json = {
        "Hostname": config.hostname or container.short_id,
        "Domainname": config.domainname,
        "User": config.user or (defaults.user if defaults else ""),
        "AttachStdin": config.stdin_once,
        "AttachStdout": config.stdin_once,
        "AttachStderr": config.stdin_once,
        "ExposedPorts": {_port(text): {} for text in (*exposed, *port_bindings(config.network))},
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": list(process.env) if process else list(_environment(details)),
        "Cmd": list(command) if command else None,
        "Image": config.image,
        "Volumes": {place.target: {} for place in details.volumes} or None,
        "WorkingDir": config.working_dir or (defaults.working_dir if defaults else ""),
        "Entrypoint": list(entrypoint) if entrypoint else None,
        "OnBuild": None,
        "Labels": ((defaults.labels if defaults else None) or {}) | config.labels,
    }
    signal = config.stop_signal or (defaults.stop_signal if defaults else "")
    data |= {"StopSignal": signal} if signal else {}
    return data | ({"StopTimeout": config.stop_timeout} if config.stop_timeout is not None else {})


def _environment(details: Details) -> tuple[str, ...]:
    """Of a container that was never started: the image's, then the request's."""
    defaults = details.image.config.defaults if details.image else None
    merged = {text.partition("=")[0]: text for text in ((defaults.env if defaults else None) or ())}
    for text in details.container.config.env:
        if "=" in text:
            merged[text.partition("=")[0]] = text
        else:
            merged.pop(text, None)
    return tuple(merged.values())


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


def _own(details: Details) -> Json:
    """What Docker has no place for."""
    record = details.container.record
    return {
        "Namespace": details.container.namespace,
        "ManifestDigest": record.manifest,
        "CgroupPath": record.cgroup,
        "ConfigPath": f"{details.directory}/config.json",
        "RunDirectory": details.run_directory,
    }
