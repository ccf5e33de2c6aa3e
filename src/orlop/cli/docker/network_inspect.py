"""`orlop network inspect`."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker import inspecting
from orlop.cli.docker.inspecting import FORMAT, print_all
from orlop.cli.flags import Options, Syntax, missing

SYNTAX = Syntax(
    "NETWORK [NETWORK...]",
    "Display detailed information on one or more networks",
    (FORMAT, *missing("-v", "--verbose", "--scope")),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """A JSON list in the order of the names."""
    return print_all(options.arguments, lambda name: inspecting.network(context.engine, name, False), options.format)
