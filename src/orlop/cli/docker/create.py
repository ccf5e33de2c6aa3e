"""`orlop create`: make a container without starting it."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.container_flags import FLAGS, container_config
from orlop.cli.docker.run import _check_cidfile, _write_cidfile, progress
from orlop.cli.flags import Options, Syntax, many

SYNTAX = Syntax(
    "IMAGE [COMMAND] [ARG...]",
    "Create a new container",
    (*FLAGS, many("-a --attach", "Attach to STDIN, STDOUT or STDERR")),
    least=1,
    interspersed=False,
)


def main(options: Options, context: Context) -> int:
    """Print the new container's ID."""
    _check_cidfile(options.cidfile)
    container = context.engine.containers.create(container_config(options), options.pull, progress(options.quiet))
    _write_cidfile(options.cidfile, container.id)
    print(container.id)
    return 0
