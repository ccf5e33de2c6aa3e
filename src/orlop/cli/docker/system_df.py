"""`orlop system df`: what images, containers and volumes take on the disk."""

from __future__ import annotations

import time

from orlop.cli.context import Context
from orlop.cli.docker.command_text import arguments, joined, quoted
from orlop.cli.docker.listing import FORMAT, Row, show
from orlop.cli.docker.moments import ago
from orlop.cli.docker.status import status
from orlop.cli.docker.units import human_duration, human_size
from orlop.cli.flags import Options, Syntax, UsageError, switch
from orlop.engine.system import DiskUse

SYNTAX = Syntax(
    "",
    "Show disk usage",
    (FORMAT, switch("-v --verbose", "Show detailed information on space usage")),
    most=0,
)
TITLES = {
    "Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
}  # fmt: skip


def main(options: Options, context: Context) -> int:
    """Three rows; with -v three tables."""
    if options.verbose and options.format:
        raise UsageError("the -v and --format options can't be used together")
    use = context.engine.system.disk_use()
    if not options.verbose:
        show(summary(use), TITLES, tuple(TITLES), options.format)
        return 0
    for number, (title, titles, rows) in enumerate(tables(use, time.time())):
        print(("\n" if number else "") + title + "\n")
        show(rows, titles, tuple(titles))
    return 0


def summary(use: DiskUse) -> list[Row]:
    """What is reclaimable is what `system prune --all --volumes` would take."""
    idle_images = sum(i.unique for i in use.images if not i.containers)
    idle = [c.size for c in use.containers if not c.container.running]
    containers = sum(c.size for c in use.containers)
    loose = sum(v.size for v in use.volumes if not v.links)
    volumes = sum(v.size for v in use.volumes)
    return [
        _row("Images", len(use.images), sum(1 for i in use.images if i.containers), use.layers, idle_images),
        _row("Containers", len(use.containers), len(use.containers) - len(idle), containers, sum(idle)),
        _row("Local Volumes", len(use.volumes), sum(1 for v in use.volumes if v.links), volumes, loose),
    ]


def _row(kind: str, total: int, active: int, size: int, reclaimable: int) -> Row:
    share = f" ({100 * reclaimable // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size, 4),
        "Reclaimable": human_size(reclaimable, 4) + share,
    }


def tables(use: DiskUse, now: float) -> list[tuple[str, dict[str, str], list[Row]]]:
    """Heading, titles and rows of each table of -v."""
    return [
        ("Images space usage:", _IMAGES, _images(use, now)),
        ("Containers space usage:", _CONTAINERS, _containers(use, now)),
        ("Local Volumes space usage:", _VOLUMES, _volumes(use)),
    ]


_IMAGES = {
    "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "Created": "CREATED", "Size": "SIZE",
    "Shared": "SHARED SIZE", "Unique": "UNIQUE SIZE", "Containers": "CONTAINERS",
}  # fmt: skip
_CONTAINERS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "Volumes": "LOCAL VOLUMES", "Size": "SIZE",
    "Created": "CREATED", "Status": "STATUS", "Names": "NAMES",
}  # fmt: skip
_VOLUMES = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}


def _images(use: DiskUse, now: float) -> list[Row]:
    rows = []
    for each in use.images:
        repository, _, tag = (each.image.tags[0] if each.image.tags else "<none>:<none>").rpartition(":")
        rows.append(
            {
                "Repository": repository,
                "Tag": tag,
                "ID": each.image.short_id,
                "Created": ago(each.image.created, now),
                "Size": human_size(each.shared + each.unique, 4),
                "Shared": human_size(each.shared, 4),
                "Unique": human_size(each.unique, 4),
                "Containers": str(each.containers),
            }
        )
    return rows


def _containers(use: DiskUse, now: float) -> list[Row]:
    configs = {each.image.id: each.image.config for each in use.images}
    return [
        {
            "ID": each.container.short_id,
            "Image": each.container.config.image,
            "Command": quoted(
                joined(arguments(each.container.config, configs.get(each.container.record.image_id))), 20
            ),
            "Volumes": str(len(each.container.record.volumes)),
            "Size": human_size(each.size, 4),
            "Created": human_duration(now - each.container.created) + " ago",
            "Status": status(each.container, now),
            "Names": each.container.name,
        }
        for each in use.containers
    ]


def _volumes(use: DiskUse) -> list[Row]:
    return [
        {"Name": each.volume.name, "Links": str(each.links), "Size": human_size(each.size, 4)} for each in use.volumes
    ]
