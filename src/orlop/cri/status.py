"""The calls about the runtime itself."""

from __future__ import annotations

import os

import msgspec

import orlop
from orlop._stubs.cri import api_pb2 as api
from orlop.cri import requests
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
    features = api.RuntimeHandlerFeatures(recursive_read_only_mounts=_rro(), user_namespaces=user_namespaces)
    return api.StatusResponse(
        status=api.RuntimeStatus(
            conditions=[
                api.RuntimeCondition(type="RuntimeReady", status=True),
                _network(network),
            ]
        ),
        info=_info(node, network) if request.verbose else None,
        runtime_handlers=[
            api.RuntimeHandler(name="", features=features),
            api.RuntimeHandler(name=requests.HANDLER, features=features),
        ],
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


def _info(node: Node, network: Choice) -> dict[str, str]:
    return {
        "config": msgspec.json.encode(node.settings).decode(),
        "network": msgspec.json.encode(network).decode(),
    }


async def runtime_config(node: Node, request: api.RuntimeConfigRequest) -> api.RuntimeConfigResponse:
    return api.RuntimeConfigResponse(linux=api.LinuxRuntimeConfiguration(cgroup_driver=api.CGROUPFS))


async def update_runtime_config(node: Node, request: api.UpdateRuntimeConfigRequest) -> api.UpdateRuntimeConfigResponse:
    """A message without a range of addresses is a kubelet's that has not been told one yet."""
    if ranges := request.runtime_config.network_config.pod_cidr:
        await node.call(node.network.take_ranges, ranges)
    return api.UpdateRuntimeConfigResponse()
