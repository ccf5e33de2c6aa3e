"""Addresses and ranges out of text. A network's own come up with each container: they are read once. Pure."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

AnyNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
AnyAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(256)
def ip_network(text: str) -> AnyNetwork:
    """As the function of that name in `ipaddress`. Raises ValueError."""
    return ipaddress.ip_network(text)


@lru_cache(256)
def ip_address(text: str) -> AnyAddress:
    """As the function of that name in `ipaddress`. Raises ValueError."""
    return ipaddress.ip_address(text)
