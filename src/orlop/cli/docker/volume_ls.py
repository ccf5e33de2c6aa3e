"""`orlop volume ls`."""

from __future__ import annotations

import re

from orlop.cli.context import Context
from orlop.cli.docker.filters import Test, has_label, select, truth
from orlop.cli.docker.listing import FILTER, FORMAT, Row, show, show_names
from orlop.cli.flags import Options, Syntax, missing, switch
from orlop.engine.records import Volume
from orlop.engine.volumes import Volumes

SYNTAX = Syntax(
    "",
    "List volumes",
    (FILTER, FORMAT, switch("-q --quiet", "Only display volume names"), *missing("--cluster")),
    most=0,
)
TITLES = {
    "Driver": "DRIVER", "Name": "VOLUME NAME", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS",
    "Links": "LINKS", "Size": "SIZE", "Availability": "AVAILABILITY", "Group": "GROUP", "Status": "STATUS",
}  # fmt: skip


def main(options: Options, context: Context) -> int:
    """By name."""
    volumes = context.engine.volumes
    found = select(volumes.all(), options.filter, _tests(volumes))
    if options.quiet and not options.format:
        show_names([volume.name for volume in found])
        return 0
    show([_row(volume) for volume in found], TITLES, ("Driver", "Name"), options.format)
    return 0


def _row(volume: Volume) -> Row:
    return {
        "Driver": volume.driver,
        "Name": volume.name,
        "Scope": "local",
        "Mountpoint": volume.mountpoint,
        "Labels": ",".join(f"{key}={text}" for key, text in volume.labels.items()),
        "Label": lambda name: volume.labels.get(name, ""),
        **dict.fromkeys(("Links", "Size", "Availability", "Group", "Status"), "N/A"),
    }


def _tests(volumes: Volumes) -> dict[str, Test[Volume]]:
    return {
        "dangling": lambda volume, text: bool(volumes.users(volume.name)) != truth(text, "dangling"),
        "driver": lambda volume, text: volume.driver == text,
        "label": lambda volume, text: has_label(volume.labels, text),
        "name": lambda volume, text: re.search(re.escape(text), volume.name) is not None,
    }
