"""`orlop system prune`: remove whatever nobody uses."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.confirm import FORCE, agreed
from orlop.cli.docker.pruned_text import heading, image_lines, total
from orlop.cli.flags import Options, Syntax, missing, switch

SYNTAX = Syntax(
    "",
    "Remove unused data",
    (
        switch("-a --all", "Remove all unused images not just dangling ones"),
        FORCE,
        switch("--volumes", "Prune anonymous volumes"),
        *missing("--filter"),
    ),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """Containers first: what they used is unused then."""
    if not agreed(options.force, "This will remove:\n" + "\n".join(f"  - {text}" for text in _what(options)) + "\n"):
        return 0
    engine = context.engine
    containers = engine.system.prune_containers(lambda _: True)
    heading("Deleted Containers", containers.removed)
    heading("Deleted Networks", engine.networks.prune())
    freed = containers.freed
    if options.volumes:
        volumes = engine.system.prune_volumes(False, lambda _: True)
        heading("Deleted Volumes", volumes.removed)
        freed += volumes.freed
    images = engine.system.prune_images(options.all)
    heading("Deleted Images", image_lines(images))
    garbage = engine.images.collect()
    total(freed + images.freed + garbage.freed)
    return 0


def _what(options: Options) -> list[str]:
    return [
        "all stopped containers",
        "all networks not used by at least one container",
        *(["all anonymous volumes not used by at least one container"] if options.volumes else []),
        "all images without at least one container associated to them" if options.all else "all dangling images",
        "all data that interrupted pulls left",
    ]
