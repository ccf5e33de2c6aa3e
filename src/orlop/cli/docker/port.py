"""`orlop port`: the published ports of a container."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.status import bracketed, hosts
from orlop.cli.flags import Options, Syntax
from orlop.network.records import PublishedPort
from orlop.spec.errors import InvalidArgument, NotFound

SYNTAX = Syntax(
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    "List port mappings or a specific mapping for the container",
    least=1,
    most=2,
)


def main(options: Options, context: Context) -> int:
    """`80/tcp -> 0.0.0.0:8080` for each; of one port only where it leads."""
    name, *wanted = options.arguments
    container = context.engine.containers.get(name)
    attachment = container.record.attachment
    ports = attachment.ports if attachment else ()
    if not wanted:
        for port in sorted(ports, key=lambda p: (p.container_port, p.protocol)):
            for text in _outside(port):
                print(f"{port.container_port}/{port.protocol} -> {text}")
        return 0
    number, _, protocol = wanted[0].partition("/")
    if not number.isdigit() or protocol not in ("", "tcp", "udp", "sctp"):
        raise InvalidArgument(f"invalid port {wanted[0][:40]!r}: want a number, and /tcp, /udp or /sctp")
    found = [p for p in ports if p.container_port == int(number) and p.protocol == (protocol or "tcp")]
    if not found:
        raise NotFound(f"no public port '{number}/{protocol or 'tcp'}' published for {name}")
    for port in found:
        for text in _outside(port):
            print(text)
    return 0


def _outside(port: PublishedPort) -> list[str]:
    return [f"{bracketed(address)}:{port.host_port}" for address in hosts(port)]
