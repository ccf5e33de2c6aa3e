"""`-p [address:][host port:]container port[/protocol]`, with ranges. Pure."""

from __future__ import annotations

import ipaddress

from orlop.engine.config import PortBinding
from orlop.spec.errors import InvalidArgument, Unimplemented


def parse_publish(text: str) -> list[PortBinding]:
    """The bindings of one `-p`: `80`, `8080:80`, `127.0.0.1:8080:80/udp`, `[::1]::80`, `8000-8010:80-90`."""
    body, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"invalid proto: {protocol[:20]}")
    address, host, container = _split(body, text)
    inside = _range(container, text)
    outside = _range(host, text) if host else (0, 0)
    count = inside[1] - inside[0]
    if host and outside[1] - outside[0] != count:
        if count:
            raise InvalidArgument(f"invalid ranges specified for container and host ports: {container} and {host}")
        raise Unimplemented(f"publish {text[:80]!r}: a range of host ports for one container port is not supported yet")
    return [
        PortBinding(
            container_port=inside[0] + step,
            protocol=protocol,
            host_port=outside[0] + step if host else 0,
            host_address=address,
        )
        for step in range(count + 1)
    ]


def _split(body: str, text: str) -> tuple[str, str, str]:
    address = ""
    if body.startswith("["):
        address, bracket, body = body[1:].partition("]")
        if not bracket or not body.startswith(":"):
            raise InvalidArgument(f"invalid IP address in {text[:80]!r}")
        body = body[1:]
    parts = body.split(":")
    if len(parts) == 3 and not address:
        address = parts.pop(0)
    if len(parts) > 2:
        raise InvalidArgument(f"invalid publish specification {text[:80]!r}: want [address:][host port:]container port")
    if address:
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError:
            raise InvalidArgument(f"invalid IP address: {address[:60]}") from None
    host = parts[0] if len(parts) == 2 else ""
    return address, host, parts[-1]


def _range(ports: str, text: str) -> tuple[int, int]:
    first, dash, last = ports.partition("-")
    low, high = _port(first, text), _port(last if dash else first, text)
    if high < low:
        raise InvalidArgument(f"invalid port range in {text[:80]!r}: {ports[:40]}")
    return low, high


def _port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7 and 0 < int(text) < 65536):
        raise InvalidArgument(f"invalid port {text[:20]!r} in {whole[:80]!r}: want a number from 1 to 65535")
    return int(text)
