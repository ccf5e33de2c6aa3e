"""`orlop network create`."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.container_flags import pairs
from orlop.cli.docker.units import parse_integer
from orlop.cli.flags import Options, Syntax, UsageError, many, missing, switch, value
from orlop.network.records import Subnet
from orlop.spec.errors import Unimplemented

SYNTAX = Syntax(
    "NETWORK",
    "Create a network",
    (
        value("-d --driver", "Driver to manage the Network", "bridge"),
        many("--gateway", "IPv4 or IPv6 Gateway for the master subnet"),
        switch("--internal", "Restrict external access to the network"),
        many("--ip-range", "Allocate container ip from a sub-range"),
        switch("--ipv6", "Enable or disable IPv6 address assignment"),
        many("--label", "Set metadata on a network"),
        many("-o --opt", "Set driver specific options", "map"),
        many("--subnet", "Subnet in CIDR format that represents a network segment"),
        *missing(
            "--attachable", "--aux-address", "--config-from", "--config-only", "--ingress", "--ipam-driver",
            "--ipam-opt", "--ipv4", "--scope",
        ),
    ),
    least=1,
    most=1,
)  # fmt: skip
MTU = "com.docker.network.driver.mtu"


def main(options: Options, context: Context) -> int:
    """Print the network's name, which is its ID too."""
    if options.driver != "bridge":
        raise Unimplemented(f"network driver {options.driver[:40]!r}: there is bridge (and conflists for CNI plugins)")
    given = pairs(options.opt, "--opt", need_value=True)
    mtu = parse_integer(given.pop(MTU, "0"), f"--opt {MTU}")
    if given:
        raise Unimplemented(f"network option {next(iter(given))[:60]!r}: there is {MTU}")
    network = context.engine.networks.create(
        options.arguments[0],
        subnets=subnets(options.subnet, options.gateway, options.ip_range),
        ipv6=options.ipv6,
        internal=options.internal,
        mtu=mtu,
        labels=pairs(options.label, "--label"),
    )
    print(network.name)
    return 0


def subnets(ranges: list[str], gateways: list[str], narrowed: list[str]) -> tuple[Subnet, ...]:
    """Gateways and ranges find the subnet that they lie in, as Docker matches them."""
    import ipaddress

    try:
        networks = [ipaddress.ip_network(text, strict=False) for text in ranges]
        doors = [ipaddress.ip_address(text) for text in gateways]
        parts = [ipaddress.ip_network(text, strict=False) for text in narrowed]
    except ValueError as error:
        raise UsageError(f"invalid network: {error}") from None
    for door in doors:
        if not any(door in network for network in networks):
            raise UsageError(f"no matching subnet for gateway {door}")
    for part in parts:
        if not any(part.version == n.version and part.subnet_of(n) for n in networks):  # type: ignore[arg-type]
            raise UsageError(f"no matching subnet for range {part}")
    return tuple(
        Subnet(
            subnet=str(network),
            gateway=next((str(door) for door in doors if door in network), ""),
            range=next(
                (str(p) for p in parts if p.version == network.version and p.subnet_of(network)),  # type: ignore[arg-type]
                "",
            ),
        )
        for network in networks
    )
