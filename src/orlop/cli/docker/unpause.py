"""`orlop unpause`: let the processes of paused containers go on."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax
from orlop.cli.report import for_each

SYNTAX = Syntax("CONTAINER [CONTAINER...]", "Unpause all processes within one or more containers", least=1)


def main(options: Options, context: Context) -> int:
    """Print each container's name."""

    def unpause(name: str) -> str:
        context.engine.containers.unpause(name)
        return name

    return for_each(options.arguments, unpause)
