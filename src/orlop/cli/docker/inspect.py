"""`orlop inspect`: whatever has a name, as JSON."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.inspecting import FORMAT, KINDS, anything, print_all
from orlop.cli.flags import Options, Syntax, UsageError, switch, value

SYNTAX = Syntax(
    "NAME|ID [NAME|ID...]",
    "Return low-level information on containers, images, volumes and networks",
    (
        FORMAT,
        switch("-s --size", "Display total file sizes if the type is container"),
        value("--type", "Only inspect objects of the given type"),
    ),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """A JSON list in the order of the names."""
    if options.type and options.type not in KINDS:
        raise UsageError(f"unknown type: {options.type[:40]!r}: want one of {', '.join(KINDS)}")
    look = KINDS[options.type] if options.type else anything
    return print_all(options.arguments, lambda name: look(context.engine, name, options.size), options.format)
