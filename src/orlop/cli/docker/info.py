"""`orlop info`."""

from __future__ import annotations

from typing import Any

from orlop.cli.context import Context
from orlop.cli.docker.units import human_memory
from orlop.cli.flags import Options, Syntax, value
from orlop.cli.text import one_line
from orlop.engine.system import Info

SYNTAX = Syntax(
    "",
    "Display system-wide information",
    (value("-f --format", "Format output using a custom template: 'json', or a Go template"),),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """In Docker's layout."""
    info = context.engine.system.info()
    if options.format:
        from orlop.cli.docker.formatted import print_one

        print_one(info_json(info), options.format)
        return 0
    for line in text(info):
        print(one_line(line))
    return 0


def text(info: Info) -> list[str]:
    """The lines."""
    return [
        f"Containers: {info.containers}",
        f" Running: {info.running}",
        f" Paused: {info.paused}",
        f" Stopped: {info.stopped}",
        f"Images: {info.images}",
        f"Server Version: {info.version}",
        f"Storage Driver: {info.storage_driver}",
        f" Backing Filesystem: {info.filesystem}",
        "Logging Driver: json-file",
        "Cgroup Driver: cgroupfs",
        f"Cgroup Version: {cgroup_version(info)}",
        f" Hierarchies: {info.cgroup_mode}",
        f" Controllers: {' '.join(info.cgroup_controllers)}",
        "Plugins:",
        " Volume: local",
        " Network: bridge host null cni",
        " Log: json-file none",
        "Runtimes: orlop",
        "Default Runtime: orlop",
        "Security Options:",
        *(f" {name}" for name in info.security),
        f"Kernel Version: {info.kernel}",
        f"Operating System: {info.operating_system}",
        "OSType: linux",
        f"Architecture: {info.machine}",
        f"CPUs: {info.processors}",
        f"Total Memory: {human_memory(info.memory)}",
        f"Name: {info.hostname}",
        f"Orlop Root Dir: {info.root}",
        f"Orlop State Dir: {info.state}",
    ]


def cgroup_version(info: Info) -> str:
    """Docker knows 1 and 2; a hybrid host has its controllers on v1."""
    return "2" if info.cgroup_mode == "v2" else "1"


def info_json(info: Info) -> dict[str, Any]:
    """Docker's fields (Engine API, SystemInfo)."""
    return {
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped,
        "Images": info.images,
        "Driver": info.storage_driver,
        "DriverStatus": [["Backing Filesystem", info.filesystem]],
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "host", "null", "cni"], "Log": ["json-file", "none"]},
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroup_version(info),
        "KernelVersion": info.kernel,
        "OperatingSystem": info.operating_system,
        "OSType": "linux",
        "Architecture": info.machine,
        "NCPU": info.processors,
        "MemTotal": info.memory,
        "Name": info.hostname,
        "DockerRootDir": info.root,
        "StateDir": info.state,
        "ServerVersion": info.version,
        "Runtimes": {"orlop": {"path": "orlop-runtime"}},
        "DefaultRuntime": "orlop",
        "SecurityOptions": [f"name={name}" for name in info.security],
    }
