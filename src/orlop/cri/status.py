"""The calls about the runtime itself."""

from __future__ import annotations

import os
import sys

import grpc
import msgspec

import orlop
from orlop._stubs.cri import api_pb2 as api
from orlop.cri import handlers
from orlop.cri.network import Choice
from orlop.cri.node import Node
from orlop.runtime.host import kernel_version

API_VERSION = "v1"


async def version(node: Node, request: api.VersionRequest) -> api.VersionResponse:
    return api.VersionResponse(
        version="0.1.0",
        runtime_name="orlop",
        runtime_version=orlop.__version__,
        runtime_api_version=API_VERSION,
    )


async def status(node: Node, request: api.StatusRequest) -> api.StatusResponse:
    network = await node.call(node.network.look)
    user_namespaces = not await node.call(lambda: node.engine.user_namespace_obstacle)
    own = {"recursive_read_only": _rro(), "user_namespaces": user_namespaces}
    found = tuple(msgspec.structs.replace(each, **own) if each.name == handlers.OWN else each for each in node.handlers)
    return api.StatusResponse(
        status=api.RuntimeStatus(
            conditions=[
                api.RuntimeCondition(type="RuntimeReady", status=True),
                _network(network),
            ]
        ),
        info=await node.call(_info, node, network, found) if request.verbose else None,
        runtime_handlers=handlers.messages(found, node.settings.default_handler),
        features=api.RuntimeFeatures(
            supplemental_groups_policy=True, user_namespaces_host_network=user_namespaces, mount_options=True
        ),
    )


def _rro() -> bool:
    """Whether all beneath a mount can be made read-only at once: mount_setattr(2), of Linux 5.12."""
    return kernel_version(os.uname().release) >= (5, 12)


def _network(choice: Choice) -> api.RuntimeCondition:
    return api.RuntimeCondition(
        type="NetworkReady", status=not choice.problem, reason=choice.reason, message=choice.problem or choice.message
    )


def _info(node: Node, network: Choice, found: tuple[handlers.Handler, ...]) -> dict[str, str]:
    """What `crictl info` prints beside the conditions: JSON by name."""
    kernel = os.uname()
    versions = {
        "orlop": orlop.__version__,
        "python": sys.version.split()[0],
        "grpc": grpc.__version__,
        "kernel": kernel.release,
        "machine": kernel.machine,
    }
    store = {
        "root": str(node.engine.paths.root),
        "state": str(node.engine.paths.state),
        "namespace": node.engine.namespace,
        "cgroups": node.engine.cgroups.mode,
    }
    parts = {
        "config": node.settings,
        "network": network,
        "runtimeHandlers": found,
        "store": store,
        "versions": versions,
    }
    return {name: msgspec.json.encode(part).decode() for name, part in parts.items()}


async def runtime_config(node: Node, request: api.RuntimeConfigRequest) -> api.RuntimeConfigResponse:
    driver = api.SYSTEMD if node.settings.cgroup_driver == "systemd" else api.CGROUPFS
    return api.RuntimeConfigResponse(linux=api.LinuxRuntimeConfiguration(cgroup_driver=driver))


async def update_runtime_config(node: Node, request: api.UpdateRuntimeConfigRequest) -> api.UpdateRuntimeConfigResponse:
    """A message without a range of addresses is a kubelet's that has not been told one yet."""
    if ranges := request.runtime_config.network_config.pod_cidr:
        await node.call(node.network.take_ranges, ranges)
    return api.UpdateRuntimeConfigResponse()
