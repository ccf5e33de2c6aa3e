"""`orlop kill`: send a signal to running containers."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, value
from orlop.cli.report import for_each

SYNTAX = Syntax(
    "CONTAINER [CONTAINER...]",
    "Kill one or more running containers",
    (value("-s --signal", "Signal to send to the container", "KILL"),),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """Print the name of each container that got the signal."""

    def kill(name: str) -> str:
        context.engine.containers.kill(name, options.signal)
        return name

    return for_each(options.arguments, kill)
