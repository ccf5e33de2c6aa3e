"""`orlop volume create`."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.container_flags import pairs
from orlop.cli.flags import Options, Syntax, UsageError, many, missing, value

SYNTAX = Syntax(
    "[VOLUME]",
    "Create a volume",
    (
        value("-d --driver", "Specify volume driver name", "local"),
        many("--label", "Set metadata for a volume"),
        value("--name", "Specify volume name"),
        many("-o --opt", "Set driver specific options", "map"),
        *missing(
            "--availability", "--group", "--limit-bytes", "--required-bytes", "--scope", "--secret", "--sharing",
            "--topology-preferred", "--topology-required", "--type",
        ),
    ),
    most=1,
)  # fmt: skip


def main(options: Options, context: Context) -> int:
    """Print the volume's name. One that is there already is left as it is."""
    if options.name and options.arguments:
        raise UsageError(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        )
    name = options.arguments[0] if options.arguments else options.name
    labels = pairs(options.label, "--label")
    volume = context.engine.volumes.create(name, labels, options.driver, pairs(options.opt, "--opt"))
    print(volume.name)
    return 0
