"""The nftables side: one table, whose rules never change while containers come and go; only set elements do.

What the chains do:

- publish: a packet to one of the host's own addresses and to a published port goes to its container. Maps with an
  address part are for ports published on that address alone, the `any` maps for those published on all.
- prerouting, output: the way into `publish` for what arrives and for what the host itself sends. From outside nobody
  may use 127.0.0.0/8, which the translation would otherwise make reachable.
- postrouting: containers leave with the host's address. Whoever reaches a published port from the same network, or
  from 127.0.0.1, gets the bridge's address as its own, because the answer must pass the host to be translated back.
  (Linux cannot do the same for ::1: what comes back is dropped unless it arrives on lo. So ::1 is left alone, and a
  client that tries it is refused at once and goes on to 127.0.0.1.)
- guard: route_localnet lets the bridge carry answers to 127.0.0.1; a container may not begin there.
- forward: into a network comes what was published and what answers; an internal one has traffic within itself alone.
  Other tables have their say too: an `accept` here cannot overrule a `drop` of Docker's or a firewall's own.
"""

from __future__ import annotations

from orlop.network.addresses import ip_network
from orlop.network.records import Attachment, Names, Network, PublishedPort

EVERYWHERE = ("", "0.0.0.0", "::")  # the first: of both families

_TABLE = """\
table inet {table} {{
  set bridges {{ type ifname; }}
  set internal {{ type ifname; }}
  set within {{ type ifname . ifname; }}
  set subnets4 {{ type ipv4_addr; flags interval; }}
  set subnets6 {{ type ipv6_addr; flags interval; }}
  map ports4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  map any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @ports4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6
    dnat ip to meta l4proto . th dport map @any4
    dnat ip6 to meta l4proto . th dport map @any6
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    iifname != "lo" ip daddr 127.0.0.0/8 return
    fib daddr type local jump publish
  }}
  chain output {{
    type nat hook output priority -100;
    ip6 daddr ::1 return
    fib daddr type local jump publish
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname @bridges ct status dnat ip saddr @subnets4 masquerade
    oifname @bridges ct status dnat ip6 saddr @subnets6 masquerade
    oifname @bridges ct status dnat ip saddr 127.0.0.0/8 masquerade
    oifname != @bridges ip saddr @subnets4 masquerade
    oifname != @bridges ip6 saddr @subnets6 masquerade
  }}
  chain guard {{
    type filter hook prerouting priority raw;
    iifname @bridges ip daddr 127.0.0.0/8 drop
  }}
  chain forward {{
    type filter hook forward priority filter;
    iifname . oifname @within accept
    ct state established,related accept
    iifname @internal drop
    oifname @internal drop
    oifname @bridges ct status dnat accept
    oifname @bridges drop
  }}
}}
"""


def make_table(names: Names, networks: tuple[Network, ...], attachments: tuple[Attachment, ...]) -> str:
    """A script that makes the table with everything that belongs in it; refused if there is a table already."""
    return "".join(
        (
            f"create table inet {names.table}\n",
            _TABLE.format(table=names.table),
            *(network_elements(names, network) for network in networks),
            *(port_elements(names, attachment) for attachment in attachments),
        )
    )


def drop_table(names: Names) -> str:
    return f"add table inet {names.table}\ndelete table inet {names.table}\n"


def _lines(names: Names, verb: str, elements: dict[str, list[str]]) -> str:
    return "".join(
        f"{verb} element inet {names.table} {where} {{ {', '.join(what)} }}\n"
        for where, what in elements.items()
        if what
    )


def network_elements(names: Names, network: Network, verb: str = "add") -> str:
    """What says that a network is there. Adding it again changes nothing."""
    device = f'"{network.device}"'
    elements: dict[str, list[str]] = {"bridges": [device], "within": [f"{device} . {device}"], "internal": []}
    if network.internal:
        elements["internal"].append(device)
    else:
        for subnet in network.subnets:
            elements.setdefault(f"subnets{ip_network(subnet.subnet).version}", []).append(subnet.subnet)
    return _lines(names, verb, elements)


def port_elements(names: Names, attachment: Attachment, verb: str = "add") -> str:
    """A container's published ports, of each family in which it has an address."""
    elements: dict[str, list[str]] = {}
    for address in attachment.addresses:
        target = address.partition("/")[0]
        family = 6 if ":" in target else 4
        for port in attachment.ports:
            if port.host_address and (":" in port.host_address) != (family == 6):
                continue
            everywhere = port.host_address in EVERYWHERE
            key = f"{port.protocol} . {port.host_port}" if everywhere else _key(port)
            value = f" : {target} . {port.container_port}" if verb == "add" else ""
            elements.setdefault(f"{'any' if everywhere else 'ports'}{family}", []).append(key + value)
    return _lines(names, verb, elements)


def _key(port: PublishedPort) -> str:
    return f"{port.host_address} . {port.protocol} . {port.host_port}"
