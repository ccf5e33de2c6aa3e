"""`orlop network ls`."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.filters import Test, has_label, select, truth
from orlop.cli.docker.listing import FILTER, FORMAT, Row, show, show_names
from orlop.cli.docker.moments import rfc3339
from orlop.cli.docker.named import NO_TRUNC_HELP
from orlop.cli.docker.networks_shown import PREDEFINED, networks
from orlop.cli.flags import Options, Syntax, switch
from orlop.engine.engine import Engine
from orlop.network.records import Network

SYNTAX = Syntax(
    "",
    "List networks",
    (FILTER, FORMAT, switch("--no-trunc", NO_TRUNC_HELP), switch("-q --quiet", "Only display network IDs")),
    most=0,
)
TITLES = {
    "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv6": "IPV6", "Internal": "INTERNAL",
    "Labels": "LABELS", "CreatedAt": "CREATED AT",
}  # fmt: skip


def main(options: Options, context: Context) -> int:
    """By name. A network's name is its ID."""
    found = select(networks(context.engine), options.filter, _tests(context.engine))
    if options.quiet and not options.format:
        show_names([network.name for network in found])
        return 0
    show([_row(network) for network in found], TITLES, ("ID", "Name", "Driver", "Scope"), options.format)
    return 0


def _row(network: Network) -> Row:
    return {
        "ID": network.name,
        "Name": network.name,
        "Driver": network.driver,
        "Scope": "local",
        "IPv6": "true" if any(":" in subnet.subnet for subnet in network.subnets) else "false",
        "Internal": "true" if network.internal else "false",
        "Labels": ",".join(f"{key}={text}" for key, text in network.labels.items()),
        "Label": lambda name: network.labels.get(name, ""),
        "CreatedAt": rfc3339(network.created),
    }


def _tests(engine: Engine) -> dict[str, Test[Network]]:
    def unused(network: Network) -> bool:
        return network.name not in PREDEFINED and not engine.networks.attachments(network.name)

    return {
        "dangling": lambda network, text: unused(network) == truth(text, "dangling"),
        "driver": lambda network, text: network.driver == text,
        "id": lambda network, text: text in network.name,
        "label": lambda network, text: has_label(network.labels, text),
        "name": lambda network, text: text in network.name,
        "scope": lambda network, text: text == "local",
        "type": lambda network, text: text == ("builtin" if network.name in PREDEFINED else "custom"),
    }
