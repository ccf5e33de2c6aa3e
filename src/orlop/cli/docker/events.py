"""`orlop events`: what happens, as it happens."""

from __future__ import annotations

import time
from typing import Any

from orlop.cli.context import Context
from orlop.cli.docker.filters import has_label, select
from orlop.cli.docker.listing import FILTER
from orlop.cli.flags import Options, Syntax, value
from orlop.cli.text import one_line
from orlop.engine.records import Event
from orlop.wire.logline import format_time
from orlop.wire.moment import parse_moment

SYNTAX = Syntax(
    "",
    "Get real time events",
    (
        FILTER,
        value("--format", "Format output using a custom template: 'json', or a Go template"),
        value("--since", "Show all events created since timestamp"),
        value("--until", "Stream events until this timestamp"),
    ),
    most=0,
)
_TESTS = {
    "type": lambda event, text: event.type == text,
    "event": lambda event, text: event.action == text,
    "container": lambda event, text: event.type == "container" and _is(event, text),
    "image": lambda event, text: (event.type == "image" and _is(event, text)) or event.attributes.get("image") == text,
    "volume": lambda event, text: event.type == "volume" and _is(event, text),
    "network": lambda event, text: event.type == "network" and _is(event, text),
    "label": lambda event, text: has_label(event.attributes, text),
}


def main(options: Options, context: Context) -> int:
    """From now on, or from --since; until --until, or for ever."""
    select([], options.filter, _TESTS)  # a wrong filter is told before anything is waited for
    since, until = _moment(options.since, "since"), _moment(options.until, "until")
    for event in context.engine.system.events(since, until):
        if not select([event], options.filter, _TESTS):
            continue
        if options.format:
            from orlop.cli.docker.formatted import print_one

            print_one(event_json(event), options.format)
        else:
            print(text(event))
        _flush()
    return 0


def _flush() -> None:
    import sys

    sys.stdout.flush()


def _moment(text: str, field: str) -> float | None:
    return parse_moment(text, time.time_ns(), time.localtime().tm_gmtoff, field) / 1e9 if text else None


def _is(event: Event, text: str) -> bool:
    return event.id.removeprefix("sha256:").startswith(text.removeprefix("sha256:")) or (
        event.attributes.get("name") == text
    )


def text(event: Event) -> str:
    """Docker's line."""
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event.attributes.items()))
    shown = f"{format_time(int(event.time * 1e9))} {event.type} {event.action} {event.id}"
    return one_line(shown + (f" ({attributes})" if attributes else ""))


def event_json(event: Event) -> dict[str, Any]:
    """Docker's fields (Engine API, EventMessage)."""
    return {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": int(event.time),
        "timeNano": int(event.time * 1e9),
        "status": event.action,
        "id": event.id,
        "from": event.attributes.get("image", ""),
    }
