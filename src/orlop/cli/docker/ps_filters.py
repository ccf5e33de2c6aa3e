"""`ps --filter`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orlop.cli.docker.filters import Test, has_label, parse_filters, select
from orlop.cli.docker.status import ALL_STATES, state
from orlop.engine.engine import Engine
from orlop.engine.records import Container
from orlop.spec.errors import InvalidArgument, OrlopError, Unimplemented


def chosen(engine: Engine, containers: list[Container], texts: Sequence[str], everything: bool) -> list[Container]:
    """The containers that pass. Without --all only running ones do, unless a filter speaks of a state."""
    tests = _tests(engine, containers)
    keys = parse_filters(texts, tuple(tests))
    if not everything and not {"status", "exited"} & set(keys):
        containers = [c for c in containers if state(c) in ("running", "paused", "restarting")]
    return select(containers, texts, tests)


def _tests(engine: Engine, everyone: list[Container]) -> dict[str, Test[Container]]:
    def when(container: Container, ref: str, later: bool) -> bool:
        other = engine.containers.get(ref)
        return container.created > other.created if later else container.created < other.created

    return {
        "id": lambda c, text: c.id.startswith(text),
        "name": lambda c, text: _matches(text, c.name),
        "label": lambda c, text: has_label(_labels(engine, c), text),
        "status": lambda c, text: _is_state(c, text),
        "exited": lambda c, text: state(c) == "exited" and str(c.record.exit_code) == text,
        "ancestor": lambda c, text: _is_of(engine, c, text),
        "volume": lambda c, text: _mounts(c, text),
        "network": lambda c, text: c.config.network.mode == text,
        "publish": lambda c, text: _port(c, text, "host_port"),
        "expose": lambda c, text: _port(c, text, "container_port"),
        "before": lambda c, text: when(c, text, later=False),
        "since": lambda c, text: when(c, text, later=True),
        "health": _not_yet,
        "is-task": _not_yet,
    }


def _not_yet(container: Container, text: str) -> bool:
    raise Unimplemented("ps --filter: health and is-task are not supported")


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern.removeprefix("^/"), name) is not None or pattern == "/" + name
    except re.error as error:
        raise InvalidArgument(f"invalid filter 'name={pattern[:40]}': {error}") from None


def _labels(engine: Engine, container: Container) -> dict[str, str]:
    try:
        own = engine.images.by_id(container.record.image_id).config.defaults.labels or {}
    except OrlopError:
        own = {}
    return own | container.config.labels


def _is_state(container: Container, text: str) -> bool:
    if text not in ALL_STATES:
        raise InvalidArgument(f"invalid filter 'status={text[:40]}': there are {', '.join(ALL_STATES)}")
    return state(container) == text


def _is_of(engine: Engine, container: Container, text: str) -> bool:
    """Made from the image, or from one that stands on its layers."""
    image = engine.images.find(text)
    if image is None:
        return False
    try:
        own = engine.images.by_id(container.record.image_id)
    except OrlopError:
        return False
    base = image.config.rootfs.diff_ids
    return own.id == image.id or (bool(base) and own.config.rootfs.diff_ids[: len(base)] == base)


def _mounts(container: Container, text: str) -> bool:
    names = {use.volume for use in container.record.volumes} | {use.target for use in container.record.volumes}
    return text in names | {m.source for m in container.config.mounts} | {m.target for m in container.config.mounts}


def _port(container: Container, text: str, field: str) -> bool:
    ports, _, protocol = text.partition("/")
    first, _, last = ports.partition("-")
    if not (first.isdigit() and (last or first).isdigit()):
        raise InvalidArgument(f"invalid filter: {text[:40]!r} is no port, as in 80, 80/tcp or 8000-8010")
    attachment = container.record.attachment
    return any(
        int(first) <= getattr(port, field) <= int(last or first) and protocol in ("", port.protocol)
        for port in (attachment.ports if attachment else ())
    )
