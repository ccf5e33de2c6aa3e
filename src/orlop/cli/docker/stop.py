"""`orlop stop`: stop running containers."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.named import stop_flags, stop_timeout
from orlop.cli.flags import Options, Syntax
from orlop.cli.report import for_each

SYNTAX = Syntax("CONTAINER [CONTAINER...]", "Stop one or more running containers", stop_flags("killing"), least=1)


def main(options: Options, context: Context) -> int:
    """Print the name of each container that was stopped, or did not run."""
    timeout = stop_timeout(options)

    def stop(name: str) -> str:
        context.engine.containers.stop(name, timeout, options.signal)
        return name

    return for_each(options.arguments, stop)
