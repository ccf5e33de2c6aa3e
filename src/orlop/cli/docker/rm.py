"""`orlop rm`: remove containers."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, missing, switch
from orlop.cli.report import for_each
from orlop.spec.errors import NotFound

SYNTAX = Syntax(
    "CONTAINER [CONTAINER...]",
    "Remove one or more containers",
    (
        switch("-f --force", "Force the removal of a running container (uses SIGKILL)"),
        switch("-v --volumes", "Remove anonymous volumes associated with the container"),
        *missing("-l", "--link"),
    ),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """Print the name of each container that is gone. With -f one that was never there is no failure, but is told."""

    def remove(name: str) -> str | None:
        try:
            context.engine.containers.remove(name, force=options.force, volumes=options.volumes)
        except NotFound as error:
            if not options.force:
                raise
            from orlop.cli.report import report

            report(error.message)
            return None
        return name

    return for_each(options.arguments, remove)
