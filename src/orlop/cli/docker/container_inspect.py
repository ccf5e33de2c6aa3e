"""`orlop container inspect`."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker import inspecting
from orlop.cli.docker.inspecting import FORMAT, print_all
from orlop.cli.flags import Options, Syntax, switch

SYNTAX = Syntax(
    "CONTAINER [CONTAINER...]",
    "Display detailed information on one or more containers",
    (FORMAT, switch("-s --size", "Display total file sizes")),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """A JSON list in the order of the names."""
    return print_all(
        options.arguments, lambda name: inspecting.container(context.engine, name, options.size), options.format
    )
