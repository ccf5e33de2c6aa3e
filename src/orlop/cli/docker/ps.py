"""`orlop ps`: list containers."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from orlop.cli.context import Context
from orlop.cli.docker.command_text import arguments, ellipsis, joined, quoted
from orlop.cli.docker.listing import FILTER, FORMAT, Row, show, show_names
from orlop.cli.docker.named import NO_TRUNC_HELP
from orlop.cli.docker.status import ports_text, state, status
from orlop.cli.docker.units import human_duration, human_size, parse_integer
from orlop.cli.flags import Options, Syntax, switch, value
from orlop.engine.engine import Engine
from orlop.engine.images.image import Image
from orlop.engine.records import Container
from orlop.spec.errors import OrlopError

SYNTAX = Syntax(
    "",
    "List containers",
    (
        switch("-a --all", "Show all containers (default shows just running)"),
        FILTER,
        FORMAT,
        value("-n --last", "Show n last created containers (includes all states)", "-1", "int"),
        switch("-l --latest", "Show the latest created container (includes all states)"),
        switch("--no-trunc", NO_TRUNC_HELP),
        switch("-q --quiet", "Only display container IDs"),
        switch("-s --size", "Display total file sizes"),
    ),
    most=0,
)
TITLES = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
    "Ports": "PORTS", "Status": "STATUS", "State": "STATE", "Size": "SIZE", "Names": "NAMES", "Labels": "LABELS",
    "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
}  # fmt: skip
COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def main(options: Options, context: Context) -> int:
    """Print the running containers, or those that the options ask for."""
    last = 1 if options.latest else parse_integer(options.last, "--last")
    containers = context.engine.containers.list(all=options.all or last > 0 or bool(options.filter))
    if options.filter:
        from orlop.cli.docker.ps_filters import chosen

        containers = chosen(context.engine, containers, options.filter, options.all or last > 0)
    if last > 0:
        containers = containers[:last]
    if options.quiet and not options.format:
        show_names([c.id if options.no_trunc else c.short_id for c in containers])
        return 0
    describe = Describer(context.engine, options.no_trunc, options.size or ".Size" in options.format)
    columns = (*COLUMNS[:-1], *(("Names", "Size") if options.size else ("Names",)))
    titles: dict[str, Any] = TITLES | {"Label": lambda name: name}
    show([describe(container) for container in containers], titles, columns, options.format)
    return 0


class Describer:
    """Containers into rows. Images are looked up once each."""

    def __init__(self, engine: Engine, full: bool, size: bool) -> None:
        self._engine = engine
        self._full = full
        self._size = size
        self._now = time.time()
        self._by_id = cache(self._image_by_id)
        self._by_name = cache(self._image_id_by_name)

    def __call__(self, container: Container) -> Row:
        image = self._by_id(container.record.image_id)
        command = joined(arguments(container.config, image.config if image else None))
        exposed = self._exposed(container, image)
        attachment = container.record.attachment
        labels = self._labels(container, image)
        volumes = [use.volume for use in container.record.volumes]
        mounts = volumes + [mount.source for mount in container.config.mounts if mount.type == "bind"]
        cut = 0 if self._full else 15
        return {
            "ID": container.id if self._full else container.short_id,
            "Image": self._image_name(container),
            "Command": quoted(command, 0 if self._full else 20),
            "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(container.created)),
            "RunningFor": human_duration(self._now - container.created) + " ago",
            "Ports": ports_text(attachment.ports if attachment else (), exposed),
            "Status": status(container, self._now),
            "State": state(container),
            "Size": self._sizes(container, image),
            "Names": container.name,
            "Labels": ",".join(f"{key}={text}" for key, text in labels.items()),
            "Label": lambda name: labels.get(name, ""),
            "Mounts": ",".join(ellipsis(name, cut) for name in mounts),
            "LocalVolumes": str(len(volumes)),
            "Networks": container.config.network.mode,
            "Platform": str(image.platform) if image else "",
        }

    def _exposed(self, container: Container, image: Image | None) -> tuple[str, ...]:
        if not container.running or container.config.network.mode in ("host", "none"):
            return ()
        exposed = image.config.defaults.exposed_ports if image else None
        return (*(exposed or ()), *container.config.network.expose)

    def _labels(self, container: Container, image: Image | None) -> dict[str, str]:
        return ((image.config.defaults.labels if image else None) or {}) | container.config.labels

    def _image_name(self, container: Container) -> str:
        """What the user called it, while that still means the same image; else its ID."""
        name, identifier = container.config.image, container.record.image_id
        hexes = identifier.partition(":")[2]
        if hexes.startswith(name.removeprefix("sha256:")):
            return name
        return name if self._by_name(name) == identifier else hexes if self._full else hexes[:12]

    def _sizes(self, container: Container, image: Image | None) -> str:
        if not self._size:
            return "0B"
        own = self._engine.snapshots.usage(container.id).size if container.record.snapshot else 0
        return f"{human_size(own)} (virtual {human_size(own + (image.size if image else 0))})"

    def _image_by_id(self, identifier: str) -> Image | None:
        try:
            return self._engine.images.by_id(identifier)
        except OrlopError:
            return None

    def _image_id_by_name(self, name: str) -> str:
        try:
            image = self._engine.images.find(name)
        except OrlopError:
            return ""
        return image.id if image else ""
