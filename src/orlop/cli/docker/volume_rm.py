"""`orlop volume rm`."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, switch
from orlop.cli.report import for_each

SYNTAX = Syntax(
    "VOLUME [VOLUME...]",
    "Remove one or more volumes. You cannot remove a volume that is in use by a container",
    (switch("-f --force", "Force the removal of one or more volumes"),),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """Print the name of each volume that is gone."""

    def remove(name: str) -> str:
        context.engine.volumes.remove(name, force=options.force)
        return name

    return for_each(options.arguments, remove)
