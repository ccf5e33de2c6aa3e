"""Ask the host what planning must know of it."""

from __future__ import annotations

import os
import socket

from orlop.network.plan import Facts
from orlop.sys.files import read_text
from orlop.sys.netlink import Netlink
from orlop.wire import rtnetlink as rt


def read_facts(host: Netlink) -> Facts:
    ipv6 = _sysctl("net/ipv6/conf/all/disable_ipv6") == "0"
    return Facts(
        ipv6=ipv6,
        bridge_filter="1" in (_sysctl(f"net/bridge/bridge-nf-call-{t}tables") for t in ("ip", "ip6")),
        advertised=_advertised(host) if ipv6 and _sysctl("net/ipv6/conf/all/forwarding") == "0" else (),
    )


def _advertised(host: Netlink) -> tuple[str, ...]:
    """Devices over which the host has routes that a router advertised."""
    routes = map(rt.route_of, host.dump(rt.route_dump(rt.AF_INET6)))
    names = {_name(route.oif) for route in routes if route.protocol == rt.RTPROT_RA and route.oif}
    return tuple(sorted(name for name in names if _sysctl(f"net/ipv6/conf/{name}/accept_ra") == "1"))


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:  # gone in the meantime
        return os.devnull


def _sysctl(path: str) -> str:
    """A setting of the kernel, or "" where it is missing: the kernel lacks the feature, the program is not in use."""
    try:
        return read_text(f"/proc/sys/{path}").strip()
    except OSError:
        return ""
