"""Flags, and things to say, that several commands on containers share."""

from __future__ import annotations

from orlop.cli.docker.units import parse_integer
from orlop.cli.flags import Flag, Options, value

NO_TRUNC_HELP = "Don't truncate output"


def stop_flags(verb: str) -> tuple[Flag, ...]:
    """-t and -s of stop and restart."""
    return (
        value("-s --signal", "Signal to send to the container"),
        value("-t --time --timeout", f"Seconds to wait before {verb} the container", metavar="int"),
    )


def stop_timeout(options: Options) -> float | None:
    """-t in seconds; None: the container's own."""
    return float(parse_integer(options.timeout, "--timeout")) if "timeout" in options.given else None
