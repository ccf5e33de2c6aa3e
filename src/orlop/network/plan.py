"""From a network and what was allocated in it to the steps that make it real. Pure; `perform` acts.

A step names one thing to do and reads as one line. Steps of the same namespace that stand beside each other are sent
to the kernel together. Every step that makes something may meet it already there: attaching repairs a network that
was half made, or changed under us.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from orlop.network.addresses import ip_address, ip_network
from orlop.network.records import Attachment, Names, Network, PublishedPort, Subnet
from orlop.network.rules import EVERYWHERE, drop_table, network_elements, port_elements
from orlop.spec.errors import InvalidArgument

try:  # what hashlib would give, but for OpenSSL, which it loads for the others
    from _blake2 import blake2s
except ImportError:
    from hashlib import blake2s

IPv4, IPv6 = 4, 6
DEFAULT_TAG_OF = "/var/lib/orlop/networks"


class Facts(msgspec.Struct, frozen=True):
    """What planning must know of the host.

    `bridge_filter`: br_netfilter shows bridged packets to the firewall. `advertised`: devices with routes from router
    advertisements, which the host would no longer accept there once it forwards.
    """

    ipv6: bool = True
    bridge_filter: bool = False
    advertised: tuple[str, ...] = ()


class _Step(msgspec.Struct, frozen=True):
    pass


class MakeBridge(_Step, frozen=True):
    device: str
    mac: str
    mtu: int = 0

    def __str__(self) -> str:
        return f"host: make bridge {self.device}, address {self.mac}{f', mtu {self.mtu}' if self.mtu else ''}"


class MakeVeth(_Step, frozen=True):
    """`pid` is a process of the namespace that the peer is born in."""

    device: str
    bridge: str
    peer: str
    mac: str
    pid: int
    mtu: int = 0
    hairpin: bool = False

    def __str__(self) -> str:
        far = f"{self.peer} of process {self.pid}, address {self.mac}"
        return f"host: make veth {self.device} on {self.bridge}{' (hairpin)' if self.hairpin else ''} to {far}"


class AddAddress(_Step, frozen=True):
    device: str
    address: str  # with prefix length
    inside: bool = False

    def __str__(self) -> str:
        return f"{_side(self.inside)}: {self.device} has {self.address}"


class LinkUp(_Step, frozen=True):
    device: str
    inside: bool = False

    def __str__(self) -> str:
        return f"{_side(self.inside)}: {self.device} up"


class AddRoute(_Step, frozen=True):
    """A default route through `gateway`."""

    device: str
    gateway: str
    inside: bool = True

    def __str__(self) -> str:
        return f"{_side(self.inside)}: default route via {self.gateway} on {self.device}"


class Sysctl(_Step, frozen=True):
    """A file under /proc/sys."""

    path: str
    value: str

    def __str__(self) -> str:
        return f"host: sysctl {self.path} = {self.value}"


class Rules(_Step, frozen=True):
    """An nftables script, run as one transaction. `lasting`: it changes nothing where it has been run before."""

    script: str
    lasting: bool = False

    def __str__(self) -> str:
        return "nft: " + "; ".join(line.strip() for line in self.script.splitlines() if line.strip())


class DropLink(_Step, frozen=True):
    """Delete a device, unless one of another kind bears the name: then it is none of ours."""

    device: str
    kind: str

    def __str__(self) -> str:
        return f"host: delete {self.device}"


class ForgetFlows(_Step, frozen=True):
    """What the kernel remembers of UDP flows to a port of the host's own, or of SCTP associations. A client that goes
    on with the same port would else be sent to where the flow led before. (TCP begins anew by itself.) `address` "" is
    any of the host's."""

    address: str
    port: int
    protocol: str = "udp"

    def __str__(self) -> str:
        return f"host: forget {self.protocol} flows to {self.address or '*'} port {self.port}"


class Limit(_Step, frozen=True):
    """How much a device of the host's sends, in bits a second."""

    device: str
    rate: int

    def __str__(self) -> str:
        return f"host: {self.device} sends at most {self.rate} bits a second"


class Divert(_Step, frozen=True):
    """What a device receives goes through one of kind ifb, where what it sends can be limited."""

    device: str
    through: str

    def __str__(self) -> str:
        return f"host: what {self.device} receives goes through {self.through}"


Step = Limit | Divert | ForgetFlows | MakeBridge | MakeVeth | AddAddress | LinkUp | AddRoute | Sysctl | Rules | DropLink


def _side(inside: bool) -> str:
    return "container" if inside else "host"


def render(steps: tuple[Step, ...]) -> str:
    return "".join(f"{step}\n" for step in steps)


# names and addresses


def _hash(*parts: str, length: int) -> str:
    return blake2s("\0".join(parts).encode()).hexdigest()[:length]


def names_for(directory: str) -> Names:
    """The names for the store whose networks directory this is."""
    if directory == DEFAULT_TAG_OF:
        return Names()
    tag = _hash(directory, length=8)
    return Names(table=f"orlop_{tag}", bridge=f"orlop-{tag}", tag=tag)


def bridge_name(names: Names, network: str) -> str:
    """A user-defined network's device (device names have at most 15 bytes)."""
    return f"orl-{_hash('network', names.tag, network, length=10)}"


def veth_name(names: Names, owner: str) -> str:
    return f"orv{_hash('owner', names.tag, owner, length=11)}"


def shaper_name(names: Names, owner: str) -> str:
    return f"ori{_hash('shaper', names.tag, owner, length=11)}"


def mac_for(address: str) -> str:
    """A locally administered hardware address that follows from the last four bytes of an IP address."""
    tail = ip_address(address.partition("/")[0]).packed[-4:]
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + tail)


def mac_bytes(text: str) -> bytes:
    """Six bytes of `02:42:0a:58:00:02`; refuses what no interface can have."""
    parts = text.split(":")
    try:
        mac = bytes(int(part, 16) for part in parts if len(part) == 2)
    except ValueError:
        mac = b""
    if len(parts) != 6 or len(mac) != 6:
        raise InvalidArgument(f"mac address {text[:64]!r}: want six pairs of hex digits with colons between them")
    if mac[0] & 1 or not any(mac):
        raise InvalidArgument(f"mac address {text}: not one for a single interface")
    return mac


def version(address: str) -> int:
    return ip_address(address.partition("/")[0]).version


def bare(address: str) -> str:
    return address.partition("/")[0]


def _usable(network: Network, facts: Facts) -> tuple[Subnet, ...]:
    return tuple(s for s in network.subnets if facts.ipv6 or ip_network(s.subnet).version == IPv4)


# plans


def _bridge_steps(network: Network, facts: Facts) -> tuple[Step, ...]:
    """The network's own side, rules left out: device, addresses, forwarding."""
    subnets = _usable(network, facts)
    prefix = {s.subnet: ip_network(s.subnet).prefixlen for s in subnets}
    versions = {ip_network(s.subnet).version for s in subnets}
    return (
        MakeBridge(network.device, mac_for(subnets[0].gateway), network.mtu),
        *(s for v in sorted(versions) for s in _sysctls(network, v, facts)),
        *(AddAddress(network.device, f"{s.gateway}/{prefix[s.subnet]}") for s in subnets),
        LinkUp(network.device),
    )


def _sysctls(network: Network, family: int, facts: Facts) -> tuple[Step, ...]:
    device = network.device
    if family == IPv6:
        own: tuple[Step, ...] = (
            # a container must not become the host's router by announcing itself
            Sysctl(f"net/ipv6/conf/{device}/accept_ra", "0"),
            # else the bridge's link-local address, which neighbour discovery needs, is useless for two seconds
            Sysctl(f"net/ipv6/conf/{device}/accept_dad", "0"),
        )
        keep = (Sysctl(f"net/ipv6/conf/{name}/accept_ra", "2") for name in facts.advertised)
        return own if network.internal else (*own, *keep, Sysctl("net/ipv6/conf/all/forwarding", "1"))
    # the answers to what 127.0.0.1 sent to a published port come back over the bridge
    return (
        ()
        if network.internal
        else (
            Sysctl(f"net/ipv4/conf/{device}/route_localnet", "1"),
            Sysctl("net/ipv4/ip_forward", "1"),
        )
    )


def attach_steps(network: Network, attachment: Attachment, names: Names, pid: int, facts: Facts) -> tuple[Step, ...]:
    """Everything that brings a container into a network, from nothing."""
    return (
        *network_steps(network, attachment, names, facts),
        *join_steps(network, attachment, pid, facts),
    )


def network_steps(network: Network, attachment: Attachment, names: Names, facts: Facts) -> tuple[Step, ...]:
    """The half of it for which the container's network namespace need not be there."""
    ports = port_elements(names, attachment)
    rules = Rules(network_elements(names, network), lasting=True)
    return (*_bridge_steps(network, facts), rules, *((Rules(ports),) if ports else ()))


def join_steps(network: Network, attachment: Attachment, pid: int, facts: Facts) -> tuple[Step, ...]:
    """The other half. `pid` is a process of the container's network namespace."""
    inside = attachment.interface
    return (
        MakeVeth(
            attachment.host_device,
            network.device,
            inside,
            attachment.mac,
            pid,
            network.mtu,
            hairpin=facts.bridge_filter,
        ),
        *(AddAddress(inside, address, inside=True) for address in attachment.addresses),
        LinkUp(inside, inside=True),
        *(AddRoute(inside, gateway) for gateway in attachment.gateways),
        *_bounds(attachment),
        *_forgotten(attachment),
    )


def _bounds(attachment: Attachment) -> Iterator[Step]:
    """What the container receives is what the host's end of the pair sends, and the other way round."""
    if attachment.ingress_rate:
        yield Limit(attachment.host_device, attachment.ingress_rate)
    if attachment.egress_rate:
        yield Divert(attachment.host_device, attachment.shaper)
        yield Limit(attachment.shaper, attachment.egress_rate)


def _forgotten(attachment: Attachment) -> Iterator[Step]:
    for port in attachment.ports:
        if port.protocol != "tcp":
            address = "" if port.host_address in EVERYWHERE else port.host_address
            yield ForgetFlows(address, port.host_port, port.protocol)


def detach_steps(
    attachment: Attachment, network: Network | None, names: Names, *, network_used: bool, table_used: bool
) -> tuple[Step, ...]:
    """What takes one container away, and its network's device and the table with it if nobody else uses them."""
    rules = port_elements(names, attachment, verb="delete")
    links = [DropLink(attachment.host_device, "veth")]
    if attachment.shaper:
        links.append(DropLink(attachment.shaper, "ifb"))
    if network is not None and not network_used:
        rules += network_elements(names, network, verb="delete")
        links.append(DropLink(network.device, "bridge"))
    if not table_used:
        rules = drop_table(names)
    return (*((Rules(rules),) if rules else ()), *_forgotten(attachment), *links)


def withdraw_steps(network: Network, names: Names, *, table_used: bool) -> tuple[Step, ...]:
    """What takes away the device and the rules of a network that nobody uses."""
    rules = network_elements(names, network, verb="delete") if table_used else drop_table(names)
    return (Rules(rules), DropLink(network.device, "bridge"))


def attachment_for(
    owner: str,
    network: Network,
    names: Names,
    *,
    addresses: tuple[str, ...],
    mac: str,
    ports: tuple[PublishedPort, ...],
    bandwidth: Mapping[str, int] | None = None,
) -> Attachment:
    """The record of a container's place: `addresses` with prefix lengths, gateways by family unless internal.
    `bandwidth` is as CNI's plugins get it: `ingressRate` and `egressRate` in bits a second."""
    rates = bandwidth or {}
    families = {version(address) for address in addresses}
    gateways = tuple(s.gateway for s in network.subnets if version(s.gateway) in families)
    return Attachment(
        owner=owner,
        network=network.name,
        mac=":".join(f"{byte:02x}" for byte in mac_bytes(mac)) if mac else mac_for(addresses[0]),
        addresses=addresses,
        gateways=() if network.internal else gateways,
        bridge=network.device,
        host_device=veth_name(names, owner),
        ports=ports,
        ingress_rate=rates.get("ingressRate", 0),
        egress_rate=rates.get("egressRate", 0),
        shaper=shaper_name(names, owner) if rates.get("egressRate") else "",
    )
