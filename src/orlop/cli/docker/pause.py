"""`orlop pause`: freeze the processes of containers."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax
from orlop.cli.report import for_each

SYNTAX = Syntax("CONTAINER [CONTAINER...]", "Pause all processes within one or more containers", least=1)


def main(options: Options, context: Context) -> int:
    """Print each container's name."""

    def pause(name: str) -> str:
        context.engine.containers.pause(name)
        return name

    return for_each(options.arguments, pause)
