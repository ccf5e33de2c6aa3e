"""Networks as `docker inspect` shows them: a container's settings, and a network itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orlop.cli.docker.moments import rfc3339
from orlop.cli.docker.status import hosts
from orlop.engine.config import NetworkRequest
from orlop.engine.inspect import Details
from orlop.network.records import Attachment, Network

Json = dict[str, Any]


def network_settings(details: Details) -> Json:
    """`NetworkSettings` of a container."""
    record, request = details.container.record, details.container.config.network
    attachment = record.attachment
    endpoint = _endpoint(attachment, request)
    top = (
        "Gateway",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "MacAddress",
    )
    return {
        "Bridge": attachment.bridge if attachment else "",
        "SandboxID": details.container.id if record.pid else "",
        "SandboxKey": f"/proc/{record.pid}/ns/net" if record.pid else "",
        "Ports": _ports(details),
        "EndpointID": attachment.host_device if attachment else "",
        **{name: endpoint[name] for name in top},
        "Networks": {} if request.mode.startswith("container:") else {request.mode: endpoint},
    }


def _endpoint(attachment: Attachment | None, request: NetworkRequest) -> Json:
    found = attachment or Attachment(owner="", network="")
    v4, prefix4 = _address(found.addresses, 4)
    v6, prefix6 = _address(found.addresses, 6)
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": list(request.aliases) or None,
        "MacAddress": found.mac or request.mac_address,
        "DriverOpts": None,
        "NetworkID": found.network,
        "EndpointID": found.host_device,
        "Gateway": next((g for g in found.gateways if ":" not in g), ""),
        "IPAddress": v4,
        "IPPrefixLen": prefix4,
        "IPv6Gateway": next((g for g in found.gateways if ":" in g), ""),
        "GlobalIPv6Address": v6,
        "GlobalIPv6PrefixLen": prefix6,
        "DNSNames": list(request.aliases) or None,
    }


def _address(addresses: Sequence[str], version: int) -> tuple[str, int]:
    for text in addresses:
        if (":" in text) == (version == 6):
            address, _, prefix = text.partition("/")
            return address, int(prefix or 0)
    return "", 0


def _ports(details: Details) -> Json:
    """Every exposed port, with where it is published: `{"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}`."""
    attachment = details.container.record.attachment
    if attachment is None:
        return {}
    exposed = details.image.config.defaults.exposed_ports if details.image else None
    names = (*(exposed or ()), *details.container.config.network.expose)
    found: dict[str, list[Json] | None] = {name if "/" in name else f"{name}/tcp": None for name in names}
    for port in attachment.ports:
        name = f"{port.container_port}/{port.protocol}"
        entries = [{"HostIp": address, "HostPort": str(port.host_port)} for address in hosts(port)]
        found[name] = (found.get(name) or []) + entries
    return found


def network_json(network: Network, attachments: Sequence[Attachment], names: dict[str, str]) -> Json:
    """A network (Engine API, NetworkInspect). `names` are the containers' by their IDs."""
    return {
        "Name": network.name,
        "Id": network.name,
        "Created": rfc3339(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": any(":" not in subnet.subnet for subnet in network.subnets),
        "EnableIPv6": any(":" in subnet.subnet for subnet in network.subnets),
        "IPAM": {"Driver": "default", "Options": {}, "Config": _ipam(network)},
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {each.owner: _member(each, names.get(each.owner, "")) for each in attachments},
        "Options": network.options
        | ({"com.docker.network.bridge.name": network.device} if network.device else {})
        | ({"com.docker.network.driver.mtu": str(network.mtu)} if network.mtu else {}),
        "Labels": network.labels,
        **({"Conflist": network.conflist} if network.conflist else {}),
    }


def _ipam(network: Network) -> list[Json]:
    return [
        {"Subnet": s.subnet, **({"IPRange": s.range} if s.range else {}), "Gateway": s.gateway} for s in network.subnets
    ]


def _member(attachment: Attachment, name: str) -> Json:
    return {
        "Name": name,
        "EndpointID": attachment.host_device,
        "MacAddress": attachment.mac,
        "IPv4Address": next((a for a in attachment.addresses if ":" not in a), ""),
        "IPv6Address": next((a for a in attachment.addresses if ":" in a), ""),
    }
