"""`orlop rename`: give a container another name."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax

SYNTAX = Syntax("CONTAINER NEW_NAME", "Rename a container", least=2, most=2)


def main(options: Options, context: Context) -> int:
    """Silence is success."""
    old, new = options.arguments
    context.engine.containers.rename(old, new)
    return 0
