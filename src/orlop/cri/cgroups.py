"""What a kubelet asks of a pod's control groups that depends on this node: its driver and its controllers. Pure.

A kubelet makes the group of a pod and names it: `/kubepods/burstable/podUID` with cgroupfs, and with systemd the slice
`kubepods-burstable-podUID.slice`, alone or as the path of its group. Were node and kubelet of two minds, the pod's own
limits would hold for nobody.
"""

from __future__ import annotations

import posixpath
from collections.abc import Container
from typing import Literal

import msgspec

from orlop.cgroups.units import expanded
from orlop.engine.config import ContainerConfig
from orlop.spec.errors import InvalidArgument

Driver = Literal["cgroupfs", "systemd"]
_WHERE = "config.linux.cgroup_parent"


def driven(config: ContainerConfig, driver: Driver) -> ContainerConfig:
    """A sandbox's request with who makes its groups. Raises InvalidArgument for a parent of the other driver's."""
    parent = config.cgroup_parent
    name = posixpath.basename(parent.rstrip("/"))
    if driver == "cgroupfs":
        if name.endswith(".slice"):
            raise InvalidArgument(f"{_WHERE}: {parent[:200]!r} is a slice; this node's cgroup driver is cgroupfs")
        return config
    if name and not name.endswith(".slice"):
        raise InvalidArgument(f"{_WHERE}: {parent[:200]!r} is no slice; this node's cgroup driver is systemd")
    if name:
        _check_slice(parent, name)
    return msgspec.structs.replace(config, cgroup_manager="systemd")


def _check_slice(parent: str, name: str) -> None:
    if ":" in name:  # it separates the parts of linux.cgroupsPath
        raise InvalidArgument(f"{_WHERE}: {parent[:200]!r}: a colon in the name of a slice is not supported")
    try:
        path = expanded(name)
    except InvalidArgument as error:
        raise InvalidArgument(str(error).replace("linux.cgroupsPath", _WHERE)) from None
    above = posixpath.dirname(parent.rstrip("/"))
    if above not in ("", "/") and above != posixpath.dirname(path):
        raise InvalidArgument(f"{_WHERE}: {parent[:200]!r}: the group of {name} is {path[:300]}")


def counted(config: ContainerConfig, controllers: Container[str]) -> ContainerConfig:
    """A container's request without what nobody could count here: a kubelet bounds huge pages of every size that the
    machine has, by 0 where the pod asks for none, whether or not there is a controller. Another bound is kept, and
    refused by name when the container starts."""
    pod = config.pod
    if pod is None or not pod.hugepages or "hugetlb" in controllers:
        return config
    wanted = {size: limit for size, limit in pod.hugepages.items() if limit}
    return msgspec.structs.replace(config, pod=msgspec.structs.replace(pod, hugepages=wanted))
