"""`orlop create`: make a container without starting it."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker import run
from orlop.cli.docker.container_flags import FLAGS, container_config
from orlop.cli.docker.run import check_cidfile, write_cidfile
from orlop.cli.flags import Options, Syntax, UsageError, many
from orlop.spec.errors import OrlopError

SYNTAX = Syntax(
    "IMAGE [COMMAND] [ARG...]",
    "Create a new container",
    (*FLAGS, many("-a --attach", "Attach to STDIN, STDOUT or STDERR")),
    least=1,
    interspersed=False,
)


def main(options: Options, context: Context) -> int:
    """Print the new container's ID."""
    try:
        config = run.with_attached_stdin(container_config(options), options)
    except OrlopError as error:
        raise UsageError(error.message) from None  # what can be told from the command line alone is 125, the rest 1
    check_cidfile(options.cidfile)
    container = run.create(context, config, options)
    write_cidfile(options.cidfile, container.id)
    print(container.id)
    return 0
