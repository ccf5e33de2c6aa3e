"""`orlop wait`: wait until containers stop."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax
from orlop.cli.report import for_each

SYNTAX = Syntax(
    "CONTAINER [CONTAINER...]", "Block until one or more containers stop, then print their exit codes", least=1
)


def main(options: Options, context: Context) -> int:
    """Print the exit codes, in the order of the names."""
    return for_each(options.arguments, lambda name: str(context.engine.containers.wait(name)))
