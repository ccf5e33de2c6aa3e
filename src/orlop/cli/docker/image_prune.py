"""`orlop image prune`: remove images that nobody uses."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.confirm import FORCE, agreed
from orlop.cli.docker.prune_filters import PruneFilter
from orlop.cli.docker.pruned_text import heading, image_lines, total
from orlop.cli.flags import Options, Syntax, many, switch

SYNTAX = Syntax(
    "",
    "Remove unused images",
    (
        switch("-a --all", "Remove all unused images, not just dangling ones"),
        FORCE,
        many("--filter", 'Provide filter values (e.g. "label=<key>")', "filter"),
    ),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """Print what was untagged and deleted."""
    labels = PruneFilter(options.filter, ("label",)).labels
    what = "all images without at least one container associated to them" if options.all else "all dangling images"
    if not agreed(options.force, f"This will remove {what}."):
        return 0
    removed = context.engine.system.prune_images(options.all, labels)
    heading("Deleted Images", image_lines(removed))
    total(removed.freed)
    return 0
