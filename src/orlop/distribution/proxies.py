"""Which proxy a URL goes through: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, read as Go programs read them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from orlop.spec.errors import InvalidArgument, Unimplemented

_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str, environment: Mapping[str, str]) -> str:
    """The proxy's URL, or "" for none. Loopback is never proxied."""
    parts = urlsplit(url)
    host, port = (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
    name = f"{parts.scheme}_proxy"
    proxy = environment.get(name.upper()) or environment.get(name) or ""
    exceptions = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    if not proxy or _is_loopback(host) or any(_matches(host, port, one) for one in exceptions.split(",")):
        return ""
    return _checked(proxy, name)


def _checked(proxy: str, name: str) -> str:
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgument(f"{name}: not a proxy's address")
    if parts.scheme not in _PORTS:
        raise Unimplemented(f"{name}: {parts.scheme[:20]!r} proxies are not supported, want http or https")
    return proxy


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _matches(host: str, port: int, exception: str) -> bool:
    """One item of NO_PROXY: `*`, an address or net, a domain (with its subdomains), or `.domain` (these alone)."""
    exception = exception.strip().lower()
    if exception in ("", "*"):
        return exception == "*"
    address = _address(host)
    if "/" in exception:
        return address is not None and _in_net(address, exception)
    name, colon, wanted = exception.rpartition(":")
    if colon and wanted.isdigit() and "]" not in wanted and (":" not in name or name.endswith("]")):
        if int(wanted) != port:
            return False
        exception = name
    exception = exception.strip("[]").removeprefix("*")
    if exception.startswith("."):
        return host.endswith(exception)
    return host == exception or (address is None and host.endswith("." + exception))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _in_net(address: ipaddress.IPv4Address | ipaddress.IPv6Address, net: str) -> bool:
    try:
        return address in ipaddress.ip_network(net, strict=False)
    except ValueError:
        return False
