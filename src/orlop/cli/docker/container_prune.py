"""`orlop container prune`: remove all stopped containers."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.confirm import FORCE, agreed
from orlop.cli.docker.prune_filters import PruneFilter
from orlop.cli.docker.pruned_text import heading, total
from orlop.cli.flags import Options, Syntax, many

SYNTAX = Syntax(
    "",
    "Remove all stopped containers",
    (FORCE, many("--filter", 'Provide filter values (e.g. "until=<timestamp>")', "filter")),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """Print the IDs of those that are gone."""
    wanted = PruneFilter(options.filter, ("until", "label", "label!"))
    if not agreed(options.force, "This will remove all stopped containers."):
        return 0
    pruned = context.engine.system.prune_containers(lambda c: wanted(c.created, c.config.labels))
    heading("Deleted Containers", pruned.removed)
    total(pruned.freed)
    return 0
