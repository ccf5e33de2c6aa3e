"""What all `inspect` commands do: look up, shape, print; go on after a name that is not there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from orlop.cli.docker.json_text import indented
from orlop.cli.docker.listing import safe
from orlop.cli.flags import value
from orlop.cli.report import report
from orlop.engine.engine import Engine
from orlop.spec.errors import InvalidArgument, NotFound, OrlopError

FORMAT = value("-f --format", "Format output using a custom template: 'json', or a Go template")
Look = Callable[[Engine, str, bool], Any]  # engine, name, with sizes


def print_all(names: Sequence[str], look: Callable[[str], Any], format: str) -> int:
    """A JSON list of what was found, or the template's text for each; errors after that. Exit status 1 if any."""
    template = _template(format)
    found, errors = [], []
    for name in names:
        try:
            found.append(look(name))
        except OrlopError as error:
            errors.append(error.message)
    if template is None:
        print(indented(found) if found else "[]")
    else:
        sys.stdout.write("".join(safe(template(data)) + "\n" for data in found))
    for message in errors:
        report(message)
    return 1 if errors else 0


def _template(format: str) -> Callable[[Any], str] | None:
    if format == "":
        return None
    if format == "json":
        from orlop.cli.docker.json_text import compact

        return compact
    from orlop.cli.docker.template import parse

    return parse(format).render


def container(engine: Engine, name: str, sizes: bool) -> Any:
    """A container's JSON."""
    from orlop.cli.docker.container_json import container_json

    details = engine.containers.inspect(name)
    if not sizes:
        return container_json(details)
    own = engine.system.size(details.container)
    return container_json(details, (own, own + (details.image.size if details.image else 0)))


def image(engine: Engine, name: str, sizes: bool) -> Any:
    """An image's JSON."""
    from orlop.cli.docker.image_json import image_json

    return image_json(engine.images.resolve(name), engine.snapshots.name)


def volume(engine: Engine, name: str, sizes: bool) -> Any:
    """A volume's JSON."""
    from orlop.cli.docker.volume_json import volume_json

    return volume_json(engine.volumes.get(name))


def network(engine: Engine, name: str, sizes: bool) -> Any:
    """A network's JSON."""
    from orlop.cli.docker.network_json import network_json
    from orlop.cli.docker.networks_shown import network as find

    attachments = engine.networks.attachments(name)
    found = find(engine, name)
    names = {each.id: each.name for each in engine.containers.store.all()}
    return network_json(found, attachments, names)


KINDS: dict[str, Look] = {"container": container, "image": image, "network": network, "volume": volume}


def anything(engine: Engine, name: str, sizes: bool) -> Any:
    """Whatever has this name, looked for in Docker's order."""
    for look in KINDS.values():
        try:
            return look(engine, name, sizes)
        except NotFound:
            continue
        except InvalidArgument as error:  # a volume may have a name that no image could have
            if "ambiguous" in error.message:
                raise
    raise NotFound(f"no such object: {name[:160]}")
