"""`orlop namespace ls`: the namespaces of containers, images and volumes."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.listing import FORMAT, show, show_names
from orlop.cli.flags import Options, Syntax, switch

SYNTAX = Syntax("", "List namespaces", (FORMAT, switch("-q --quiet", "Only display names")), most=0)
TITLES = {"Name": "NAME", "Containers": "CONTAINERS", "Images": "IMAGES", "Volumes": "VOLUMES"}


def main(options: Options, context: Context) -> int:
    """Those that hold something, and `default`."""
    found = context.engine.system.namespaces()
    if options.quiet and not options.format:
        show_names([each.name for each in found])
        return 0
    rows = [
        {
            "Name": each.name,
            "Containers": str(each.containers),
            "Images": str(each.images),
            "Volumes": str(each.volumes),
        }
        for each in found
    ]
    show(rows, TITLES, tuple(TITLES), options.format)
    return 0
