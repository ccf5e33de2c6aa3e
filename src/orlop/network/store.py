"""Networks in the database, and what is allocated in them."""

from __future__ import annotations

import ipaddress
import os
import sqlite3
import time
from collections.abc import Sequence

import msgspec

from orlop.network import ipam, plan
from orlop.network.addresses import AnyNetwork, ip_network
from orlop.network.plan import Facts
from orlop.network.records import Attachment, AttachRequest, Names, Network, PublishedPort, Subnet
from orlop.spec.document import known
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.sys.netlink import Netlink
from orlop.wire import rtnetlink as rt

DEFAULT = "bridge"

decode = msgspec.json.Decoder(known(Network)).decode
_encode = msgspec.json.Encoder().encode


def load(connection: sqlite3.Connection, name: str) -> Network | None:
    row = connection.execute("SELECT record FROM networks WHERE name = ?", (name,)).fetchone()
    return decode(row[0]) if row else None


def save(connection: sqlite3.Connection, network: Network) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO networks (name, driver, record) VALUES (?, ?, ?)",
        (network.name, network.driver, _encode(network)),
    )


def default_network(names: Names, used: Sequence[AnyNetwork]) -> Network:
    """The network that is there without being made."""
    subnets = (
        ipam.subnet_for(str(ipam.pick_subnet(ipam.default_candidates(), used))),
        ipam.subnet_for(str(ipam.unique_local(os.urandom(7)))),
    )
    return Network(name=DEFAULT, device=names.bridge, subnets=subnets, created=time.time())


def with_subnets(network: Network, subnets: Sequence[Subnet], ipv6: bool, used: Sequence[AnyNetwork]) -> Network:
    """The network with checked subnets, one missing IPv4 (and, if wanted, IPv6) subnet picked; at most one of each."""
    chosen = [ipam.subnet_for(s.subnet, s.gateway, s.range) for s in subnets]
    if bad := ipam.overlapping(msgspec.structs.replace(network, subnets=tuple(chosen)), used):
        raise FailedPrecondition(f"subnet {bad}: overlaps a route of the host or another network")
    families = [ip_network(s.subnet).version for s in chosen]
    if len(set(families)) != len(families):
        raise InvalidArgument(f"network {network.name}: at most one subnet of each IP version")
    if 4 not in families:
        chosen.insert(0, ipam.subnet_for(str(ipam.pick_subnet(ipam.user_candidates(), used))))
    if ipv6 and 6 not in families:
        chosen.append(ipam.subnet_for(str(ipam.unique_local(os.urandom(7)))))
    return msgspec.structs.replace(network, subnets=tuple(chosen), created=time.time())


def used_ranges(host: Netlink, connection: sqlite3.Connection, without: str = "") -> list[AnyNetwork]:
    """What the host has routes to, and what networks were given, one left out."""
    records = connection.execute("SELECT record FROM networks WHERE name <> ?", (without,)).fetchall()
    own = [ip_network(s.subnet) for row in records for s in decode(row[0]).subnets]
    return own + _host_routes(host)


def _host_routes(host: Netlink) -> list[AnyNetwork]:
    """Every range that the host has a unicast route to, default routes left out."""
    found = []
    for family in (rt.AF_INET, rt.AF_INET6):
        for route in map(rt.route_of, host.dump(rt.route_dump(family))):
            if route.destination and route.prefix and route.kind == rt.RTN_UNICAST:
                found.append(ipaddress.ip_network((route.destination, route.prefix), strict=False))
    return found


def reserve(
    connection: sqlite3.Connection,
    network: Network,
    names: Names,
    owner: str,
    request: AttachRequest,
    facts: Facts,
) -> Attachment:
    """Take addresses and ports in a bridge network for an owner; the attachment that they amount to."""
    bindings = ipam.expand(request.ports, request.publish_all, request.expose)
    if network.internal and bindings:
        raise InvalidArgument(f"network {network.name} is internal: ports cannot be published from it")
    wanted = {4: request.address, 6: request.address6}
    addresses, moved = ipam.allocate(connection, network, owner, wanted, {4, 6} if facts.ipv6 else {4})
    if not addresses:
        raise FailedPrecondition(f"network {network.name} has no subnet that this host can use")
    families = {plan.version(address) for address in addresses}
    _check_families(bindings, families)
    ports = ipam.reserve(connection, owner, bindings, families, ipam.probe)
    save(connection, moved)
    return plan.attachment_for(
        owner,
        network,
        names,
        addresses=addresses,
        mac=request.mac_address,
        ports=ports,
        bandwidth=request.capabilities.get("bandwidth"),
    )


def _check_families(bindings: Sequence[PublishedPort], families: set[int]) -> None:
    for binding in bindings:
        if binding.host_address and plan.version(binding.host_address) not in families:
            raise InvalidArgument(
                f"host address {binding.host_address}: the container has no such address to forward to"
            )
