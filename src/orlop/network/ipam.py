"""Addresses, ranges of addresses, and ports: who has which. Decisions are pure; `allocate`, `reserve` and `release`
work inside a transaction of the caller's, so that nothing is ever given out twice.
"""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv6Network

import msgspec

from orlop.network.addresses import AnyAddress, AnyNetwork, ip_address, ip_network
from orlop.network.records import Network, Port, PublishedPort, Subnet
from orlop.network.rules import EVERYWHERE
from orlop.spec.errors import (
    FailedPrecondition,
    InvalidArgument,
    OrlopError,
    OutOfRange,
    ResourceExhausted,
    Unimplemented,
    from_os,
)

EPHEMERAL = range(32768, 61000)  # where a host port is looked for when none is named: Docker's, and Linux', range
# type and number of a socket of each
PROTOCOLS = {
    "tcp": (socket.SOCK_STREAM, 0),
    "udp": (socket.SOCK_DGRAM, 0),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_CONNTRACK = "/proc/sys/net/netfilter"


# ranges


def default_candidates() -> Iterator[AnyNetwork]:
    """Where the default network may live, best first."""
    yield from (ip_network(f"10.{second}.0.0/16") for second in range(88, 128))
    yield from (ip_network(f"172.{second}.0.0/16") for second in range(20, 32))
    yield from ip_network("192.168.0.0/16").subnets(new_prefix=20)


def user_candidates() -> Iterator[AnyNetwork]:
    """Where a user-defined network without a subnet of its own may live."""
    yield from (subnet for second in range(89, 128) for subnet in ip_network(f"10.{second}.0.0/16").subnets(8))
    yield from ip_network("192.168.0.0/16").subnets(new_prefix=24)


def unique_local(random: bytes) -> IPv6Network:
    """An IPv6 network of one's own from seven random bytes (RFC 4193: fd, 40 random bits, 16 bits of subnet)."""
    return IPv6Network((b"\xfd" + random[:7] + bytes(8), 64))


def pick_subnet(candidates: Iterable[AnyNetwork], used: Sequence[AnyNetwork]) -> AnyNetwork:
    """The first candidate that overlaps nothing."""
    for candidate in candidates:
        if not any(candidate.version == other.version and candidate.overlaps(other) for other in used):
            return candidate
    raise ResourceExhausted("no free address range for a network: all are in the host's routes; give one with --subnet")


def overlapping(network: Network, used: Sequence[AnyNetwork]) -> str:
    """The first of the network's subnets that somebody else uses, "" if none is."""
    for subnet in network.subnets:
        mine = ip_network(subnet.subnet)
        if any(mine.version == other.version and mine.overlaps(other) for other in used):
            return subnet.subnet
    return ""


def subnet_for(text: str, gateway: str = "", within: str = "") -> Subnet:
    """A checked `Subnet`; the gateway is the first address unless given, `within` narrows what is given out."""
    try:
        network = ip_network(text)
        chosen = ip_address(gateway) if gateway else network.network_address + 1
        part = ip_network(within) if within else network
    except ValueError as error:
        raise InvalidArgument(f"subnet {text[:64]!r}: {str(error)[:120]}") from None
    if network.num_addresses < 4:
        raise InvalidArgument(f"subnet {text}: too small for a gateway and a container")
    if chosen not in network or chosen == network.network_address or _is_broadcast(network, chosen):
        raise InvalidArgument(f"gateway {gateway}: not an address in subnet {text}")
    if part.version != network.version or not part.subnet_of(network):  # type: ignore[arg-type]
        raise InvalidArgument(f"ip range {within}: not within subnet {text}")
    return Subnet(subnet=str(network), gateway=str(chosen), range=str(part) if within else "")


def _is_broadcast(network: AnyNetwork, address: AnyAddress) -> bool:
    return network.version == 4 and address == network.broadcast_address


# addresses


def requested(network: Network, subnet: Subnet, wanted: str) -> AnyAddress:
    """The address that was asked for, if the subnet has it."""
    within = ip_network(subnet.subnet)
    try:
        address = ip_address(wanted)
    except ValueError:
        raise InvalidArgument(f"address {wanted[:64]!r}: not an IP address") from None
    if address not in within or address == within.network_address or _is_broadcast(within, address):
        raise InvalidArgument(f"address {wanted}: not an address for a container in subnet {subnet.subnet}")
    if str(address) == subnet.gateway:
        raise FailedPrecondition(f"address {wanted}: already in use (the gateway of network {network.name})")
    return address


def next_free(network: Network, subnet: Subnet, taken: set[str]) -> AnyAddress:
    """The first free address behind the one given out last, from the beginning again after the end."""
    whole = ip_network(subnet.subnet)
    pool = ip_network(subnet.range) if subnet.range else whole
    first, size = int(pool.network_address), pool.num_addresses
    start = int(ip_address(subnet.last)) + 1 - first if subnet.last else 0
    reserved = {str(whole.network_address), subnet.gateway}
    if whole.version == 4:
        reserved.add(str(whole.broadcast_address))
    make = type(whole.network_address)
    # one more than can be taken is enough to look at
    for step in range(min(size, len(taken) + len(reserved) + 1)):
        address = make(first + (start + step) % size)
        if (text := str(address)) not in reserved and text not in taken:
            return address
    raise ResourceExhausted(f"network {network.name}: no free address in {subnet.range or subnet.subnet}")


def allocate(
    connection: sqlite3.Connection, network: Network, owner: str, wanted: dict[int, str], families: set[int]
) -> tuple[tuple[str, ...], Network]:
    """One address of each family for the owner, with prefix length, and the network with its `last` moved on.

    `wanted` has by family what was asked for. Raises FailedPrecondition for one that is taken, ResourceExhausted
    where none is left.
    """
    rows = connection.execute("SELECT address FROM addresses WHERE network = ?", (network.name,))
    taken = {str(row[0]) for row in rows}
    addresses, subnets = [], []
    for subnet in network.subnets:
        whole = ip_network(subnet.subnet)
        if whole.version not in families:
            subnets.append(subnet)
            continue
        if asked := wanted.pop(whole.version, ""):
            address = requested(network, subnet, asked)
            if str(address) in taken:
                raise FailedPrecondition(f"address {asked}: already in use in network {network.name}")
        else:
            address = next_free(network, subnet, taken)
            subnet = msgspec.structs.replace(subnet, last=str(address))
        connection.execute(
            "INSERT INTO addresses (network, address, owner) VALUES (?, ?, ?)", (network.name, str(address), owner)
        )
        addresses.append(f"{address}/{whole.prefixlen}")
        subnets.append(subnet)
    for family, asked in wanted.items():
        if asked:
            raise InvalidArgument(f"address {asked[:64]}: network {network.name} has no IPv{family} subnet")
    return tuple(addresses), msgspec.structs.replace(network, subnets=tuple(subnets))


def release(connection: sqlite3.Connection, owner: str) -> None:
    """Give back all addresses and ports of an owner; nothing happens if it has none."""
    connection.execute("DELETE FROM addresses WHERE owner = ?", (owner,))
    connection.execute("DELETE FROM ports WHERE owner = ?", (owner,))


# ports

Probe = Callable[[str, str, int], OSError | None]


def expand(ports: Sequence[Port], publish_all: bool, expose: Sequence[str]) -> tuple[PublishedPort, ...]:
    """What is to be published, checked, host port 0 where any will do. `expose` has entries such as `80/tcp`,
    `53/udp` and `8000-8010`, which `publish_all` publishes unless a binding names them."""
    bindings = [_checked(p.protocol, p.host_address, p.host_port, p.container_port) for p in ports]
    if publish_all:
        named = {(p.protocol, p.container_port) for p in bindings}
        exposed = dict.fromkeys(pair for entry in expose for pair in _exposed(entry))
        bindings += [_checked(protocol, "", 0, port) for protocol, port in exposed if (protocol, port) not in named]
    return tuple(bindings)


def _exposed(entry: str) -> Iterator[tuple[str, int]]:
    numbers, _, protocol = entry.partition("/")
    first, _, last = numbers.partition("-")
    if not (first.isascii() and first.isdigit() and (not last or (last.isascii() and last.isdigit()))):
        raise InvalidArgument(f"exposed port {entry[:64]!r}: want a port or a range, and a protocol")
    low, high = int(first[:6]), int((last or first)[:6])
    if not 1 <= low <= high <= 65535:
        raise InvalidArgument(f"exposed port {entry[:64]}: not a range of ports from 1 to 65535")
    yield from ((protocol.lower() or "tcp", port) for port in range(low, high + 1))


def _checked(protocol: str, address: str, host_port: int, container_port: int) -> PublishedPort:
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"port {container_port}/{protocol[:16]}: protocol must be tcp, udp or sctp")
    if not (1 <= container_port <= 65535 and 0 <= host_port <= 65535):
        raise OutOfRange(f"port {host_port}:{container_port}: not in 1 to 65535")
    try:
        address = str(ip_address(address)) if address else ""
    except ValueError:
        raise InvalidArgument(f"host address {address[:64]!r}: not an IP address") from None
    if address == "::1":
        raise Unimplemented("host address ::1: the kernel cannot forward from it; publish on 127.0.0.1 instead")
    return PublishedPort(protocol=protocol, host_address=address, host_port=host_port, container_port=container_port)


def _places(address: str, families: set[int]) -> tuple[str, ...]:
    """The address or addresses that a binding takes on the host."""
    if address:
        return (address,)
    return tuple(place for place, family in (("0.0.0.0", 4), ("::", 6)) if family in families)


def _overlap(one: str, other: str) -> bool:
    if (":" in one) != (":" in other):
        return False
    return one == other or one in EVERYWHERE or other in EVERYWHERE


def reserve(
    connection: sqlite3.Connection,
    owner: str,
    bindings: Sequence[PublishedPort],
    families: set[int],
    probe: Probe,
) -> tuple[PublishedPort, ...]:
    """Take all ports for the owner or none, those with host port 0 from the ephemeral range."""
    taken: set[tuple[str, str, int]] = {
        (str(row[0]), str(row[1]), int(row[2]))
        for row in connection.execute("SELECT protocol, address, port FROM ports")
    }
    result = []
    for binding in bindings:
        places = _places(binding.host_address, families)
        if binding.host_port:
            _must_be_free(binding, places, taken, probe)
        else:
            binding = msgspec.structs.replace(binding, host_port=_ephemeral(binding, places, taken, probe))
        for place in places:
            taken.add((binding.protocol, place, binding.host_port))
            connection.execute(
                "INSERT INTO ports (protocol, address, port, owner) VALUES (?, ?, ?, ?)",
                (binding.protocol, place, binding.host_port, owner),
            )
        result.append(binding)
    return tuple(result)


def _is_allocated(protocol: str, place: str, port: int, taken: set[tuple[str, str, int]]) -> bool:
    return any(p == protocol and n == port and _overlap(place, other) for p, other, n in taken)


def _shown(place: str, port: int) -> str:
    return f"[{place}]:{port}" if ":" in place else f"{place}:{port}"


def _must_be_free(
    binding: PublishedPort, places: tuple[str, ...], taken: set[tuple[str, str, int]], probe: Probe
) -> None:
    port = binding.host_port
    for place in places:
        if _is_allocated(binding.protocol, place, port, taken):
            raise FailedPrecondition(f"bind for {_shown(place, port)} failed: port is already allocated")
        if error := probe(binding.protocol, place, port):
            raise _refused(error, f"listen {binding.protocol}{6 if ':' in place else 4} {_shown(place, port)}: bind")


def _refused(error: OSError, what: str) -> OrlopError:
    if error.errno == errno.EADDRINUSE:
        return FailedPrecondition(f"{what}: address already in use")
    if error.errno == errno.EPROTONOSUPPORT:
        return Unimplemented(f"{what}: {error.strerror}")
    return (
        InvalidArgument(f"{what}: cannot assign requested address")
        if error.errno == errno.EADDRNOTAVAIL
        else (from_os(error, what))
    )


def _ephemeral(binding: PublishedPort, places: tuple[str, ...], taken: set[tuple[str, str, int]], probe: Probe) -> int:
    for port in EPHEMERAL:
        if any(_is_allocated(binding.protocol, place, port, taken) for place in places):
            continue
        if not any(probe(binding.protocol, place, port) for place in places):
            return port
    raise ResourceExhausted(f"no free host port in {EPHEMERAL.start} to {EPHEMERAL.stop - 1}")


def probe(protocol: str, address: str, port: int) -> OSError | None:
    """Why a port of the host cannot be had (somebody listens there), or None. A host without IPv6 has room there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind, number = PROTOCOLS[protocol]
    if protocol == "sctp" and (error := _sctp_obstacle()) is not None:
        return error
    if protocol == "sctp" and not _host_has_sctp():
        return None
    try:
        with socket.socket(family, kind | socket.SOCK_CLOEXEC, number) as attempt:
            if family == socket.AF_INET6:
                attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol == "tcp":  # what is left of closed connections does not matter; listeners still do
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind((address, port))
    except OSError as error:
        missing = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) if address == "::" else (errno.EAFNOSUPPORT,)
        return None if error.errno in missing else error
    return None


def _sctp_obstacle() -> OSError | None:
    """A kernel that does not track SCTP would let every packet pass untranslated (CONFIG_NF_CT_PROTO_SCTP)."""
    if os.path.isdir(_CONNTRACK) and not os.path.exists(f"{_CONNTRACK}/nf_conntrack_sctp_timeout_established"):
        return OSError(errno.EPROTONOSUPPORT, "this kernel does not track sctp, which publishing takes")
    return None


def _host_has_sctp() -> bool:
    """Whether somebody may listen here. A socket of ours would have the kernel load its module, which many hosts keep
    out; packets are translated without it."""
    try:
        with open("/proc/net/protocols", encoding="ascii", errors="replace") as file:
            return any(line.startswith("SCTP") for line in file)
    except FileNotFoundError:
        return False
