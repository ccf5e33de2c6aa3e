"""What a pod asks of its network. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from orlop._stubs.cri import api_pb2 as api
from orlop.engine.config import NetworkRequest, PodName, PortBinding
from orlop.spec.errors import InvalidArgument

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
POD_ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
_PROTOCOLS = {api.TCP: "tcp", api.UDP: "udp", api.SCTP: "sctp"}
_NO_BURST_LIMIT = (1 << 32) - 1  # bits: the most that the bandwidth plugin takes
_LEAST, _MOST = 1000, 10**15  # bits a second, as kubelet has them
_BINARY = {f"{letter}i": 1 << 10 * power for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL = {letter: 1000**power for power, letter in enumerate(("", *"kMGTPE"))}
_PARTS = {"n": 10**9, "u": 10**6, "m": 1000}  # of one
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,2})|([KMGTPE]i|[numkMGTPE]?))")


def network_request(config: api.PodSandboxConfig, mode: str) -> NetworkRequest:
    """`mode` is the engine's name for the pod's network: `host` for the node's own."""
    dns = config.dns_config
    pod = PodName(namespace=config.metadata.namespace, name=config.metadata.name, uid=config.metadata.uid)
    return NetworkRequest(
        mode=mode,
        ports=() if mode == "host" else ports(config.port_mappings),
        dns=tuple(dns.servers),
        dns_search=tuple(dns.searches),
        dns_options=tuple(dns.options),
        pod=None if mode == "host" else pod,
        capabilities={} if mode == "host" else capabilities(config),
    )


def ports(mappings: Iterable[api.PortMapping]) -> tuple[PortBinding, ...]:
    """The ports that are to be published on the node."""
    result = []
    for index, mapping in enumerate(mappings):
        where = f"config.port_mappings[{index}]"
        if not mapping.host_port:
            continue
        if mapping.protocol not in _PROTOCOLS:
            raise InvalidArgument(f"{where}.protocol: {mapping.protocol} is none of TCP, UDP and SCTP")
        for port, what in ((mapping.host_port, "host_port"), (mapping.container_port, "container_port")):
            if not 1 <= port <= 65535:
                raise InvalidArgument(f"{where}.{what}: {port} is not in 1 to 65535")
        result.append(
            PortBinding(
                container_port=mapping.container_port,
                protocol=_PROTOCOLS[mapping.protocol],
                host_port=mapping.host_port,
                host_address=mapping.host_ip,
            )
        )
    return tuple(result)


def capabilities(config: api.PodSandboxConfig) -> dict[str, Any]:
    """What CNI's plugins may ask for beside ports (CNI, CONVENTIONS.md, "Dynamic Plugin specific fields")."""
    found: dict[str, Any] = {}
    dns = config.dns_config
    if dns.servers or dns.searches or dns.options:
        found["dns"] = {"servers": [*dns.servers], "searches": [*dns.searches], "options": [*dns.options]}
    if limits := bandwidth(config.annotations):
        found["bandwidth"] = limits
    if config.annotations:
        found[POD_ANNOTATIONS] = dict(config.annotations)
    if config.linux.cgroup_parent:
        found["cgroupPath"] = config.linux.cgroup_parent
    return found


def bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """Bits a second, in and out of the pod."""
    found: dict[str, int] = {}
    for annotation, direction in ((INGRESS, "ingress"), (EGRESS, "egress")):
        if text := annotations.get(annotation):
            rate = quantity(text, annotation)
            if not _LEAST <= rate <= _MOST:
                raise InvalidArgument(f"annotation {annotation}: {text[:32]} is not in 1k to 1P bits a second")
            found |= {f"{direction}Rate": rate, f"{direction}Burst": _NO_BURST_LIMIT}
    return found


def quantity(text: str, what: str) -> int:
    """A number as Kubernetes writes amounts (`10M`, `1.5Gi`, `2e6`, `100m`), rounded up to a whole one."""
    match = _QUANTITY.fullmatch(text) if len(text) <= 64 else None
    if match is None:
        raise InvalidArgument(f"annotation {what}: {text[:32]!r} is no quantity, as 10M is")
    number, exponent, suffix = match.groups()
    whole, _, fraction = number.partition(".")
    power = int(exponent or 0) - len(fraction)
    value: int = int(whole + fraction) * (_BINARY.get(suffix) or _DECIMAL.get(suffix or "", 1)) * 10 ** max(power, 0)
    parts: int = _PARTS.get(suffix, 1) * 10 ** max(-power, 0)
    return -(-value // parts)
