"""`orlop network prune`: remove networks that no container uses."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.confirm import FORCE, agreed
from orlop.cli.docker.pruned_text import heading
from orlop.cli.flags import Options, Syntax, missing

SYNTAX = Syntax("", "Remove all unused networks", (FORCE, *missing("--filter")), most=0)


def main(options: Options, context: Context) -> int:
    """Print the names of those that are gone."""
    if not agreed(options.force, "This will remove all custom networks not used by at least one container."):
        return 0
    heading("Deleted Networks", context.engine.networks.prune())
    return 0
