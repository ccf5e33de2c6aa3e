"""`orlop volume prune`: remove volumes that no container uses."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.confirm import FORCE, agreed
from orlop.cli.docker.prune_filters import PruneFilter
from orlop.cli.docker.pruned_text import heading, total
from orlop.cli.flags import Options, Syntax, many, switch

SYNTAX = Syntax(
    "",
    "Remove unused local volumes",
    (
        switch("-a --all", "Remove all unused volumes, not just anonymous ones"),
        FORCE,
        many("--filter", 'Provide filter values (e.g. "label=<label>")', "filter"),
    ),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """Print the names of those that are gone."""
    wanted = PruneFilter(options.filter, ("label", "label!"))
    kind = "all" if options.all else "anonymous"
    if not agreed(options.force, f"This will remove {kind} local volumes not used by at least one container."):
        return 0
    pruned = context.engine.system.prune_volumes(options.all, lambda v: wanted(v.created, v.labels))
    heading("Deleted Volumes", pruned.removed)
    total(pruned.freed)
    return 0
