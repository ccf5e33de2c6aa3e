"""`orlop logs`: what a container wrote."""

from __future__ import annotations

import sys

from orlop.cli.context import Context
from orlop.cli.docker.units import parse_integer
from orlop.cli.flags import Options, Syntax, missing, switch, value

SYNTAX = Syntax(
    "CONTAINER",
    "Fetch the logs of a container",
    (
        switch("-f --follow", "Follow log output"),
        value("--since", 'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")'),
        value("-n --tail", "Number of lines to show from the end of the logs", "all"),
        switch("-t --timestamps", "Show timestamps"),
        value("--until", 'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")'),
        *missing("--details"),
    ),
    least=1,
    most=1,
)


def main(options: Options, context: Context) -> int:
    """Each stream goes where it came from; with -f until the container has ended."""
    outputs = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    selection = {"tail": _tail(options.tail), "since": options.since, "until": options.until}
    for line in context.engine.containers.logs(options.arguments[0], follow=options.follow, **selection):
        stamp = f"{line.time} " if options.timestamps and not line.note else ""
        output = outputs[line.stream]
        output.write((stamp + line.text).encode("utf-8", "surrogateescape"))
        if options.follow or line.stream == "stderr":
            output.flush()
    return 0


def _tail(text: str) -> int | None:
    """None for all; Docker takes a negative number to mean that too."""
    if text in ("all", ""):
        return None
    count = parse_integer(text, "--tail")
    return None if count < 0 else count
