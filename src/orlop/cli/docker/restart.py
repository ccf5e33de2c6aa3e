"""`orlop restart`: stop containers and start them again."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.named import stop_flags, stop_timeout
from orlop.cli.flags import Options, Syntax
from orlop.cli.report import for_each

SYNTAX = Syntax("CONTAINER [CONTAINER...]", "Restart one or more containers", stop_flags("killing"), least=1)


def main(options: Options, context: Context) -> int:
    """Print the name of each container that was restarted."""
    timeout = stop_timeout(options)

    def restart(name: str) -> str:
        context.engine.containers.restart(name, timeout, options.signal)
        return name

    return for_each(options.arguments, restart)
