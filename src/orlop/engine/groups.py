"""Where a container's control group is, and who makes it: the engine itself, or systemd as a scope of a slice."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from orlop.cgroups.units import PREFIX, Place, Unit, unit_of
from orlop.engine.records import Container, ContainerRecord

if TYPE_CHECKING:
    from orlop.cgroups.facts import CgroupHost
    from orlop.spec.runtime import RuntimeSpec


def wanted(container: Container) -> Place:
    """Where a container goes that is started now. Raises InvalidArgument for a parent that is no slice."""
    parent = container.config.cgroup_parent.strip("/")
    if not container.config.cgroup_manager:
        return Place(f"/{parent or 'orlop'}/{container.id}")
    unit = unit_of(f"{posixpath.basename(parent)}:{PREFIX}:{container.id}", container.id)
    return Place(unit.group(), unit)


def place(record: ContainerRecord) -> Place:
    """Where a container that was started is."""
    unit = Unit(posixpath.basename(record.cgroup), record.slice) if record.slice else None
    return Place(record.cgroup, unit)


def configured(record: ContainerRecord) -> str:
    """The place as a configuration has it (linux.cgroupsPath)."""
    if not record.slice:
        return record.cgroup
    name = posixpath.basename(record.cgroup).removeprefix(f"{PREFIX}-").removesuffix(".scope")
    return f"{record.slice}:{PREFIX}:{name}"


def oom_events(host: CgroupHost, record: ContainerRecord) -> str:
    """The file by which the shim sees that memory was lacking. systemd removes a scope that has become empty at once,
    whatever stands in it; a group of the engine's own can be asked afterwards."""
    if not record.slice or (host.mode == "v2" and not host.unified) or "memory" not in host.controllers:
        return ""
    file = "memory.events" if host.mode == "v2" else "memory.oom_control"
    return f"{host.mount('memory')}{record.cgroup}/{file}"


def adopt(host: CgroupHost, record: ContainerRecord, spec: RuntimeSpec, pid: int) -> None:
    """Have systemd make the scope with a process in it, and put the limits in force."""
    from orlop.cgroups import driver

    driver.adopt(host, place(record), spec.linux.resources if spec.linux else None, spec.annotations, pid)


def remove(host: CgroupHost, record: ContainerRecord) -> None:
    """Remove the group, in which no process is left. One that is gone is right."""
    from orlop.cgroups import driver

    driver.remove(host, place(record))
