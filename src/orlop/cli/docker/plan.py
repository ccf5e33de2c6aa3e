"""`orlop plan`: what would be done, system call by system call, to run an image."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.container_flags import FLAGS, container_config
from orlop.cli.docker.run import progress
from orlop.cli.flags import Options, Syntax
from orlop.cli.text import lines

SYNTAX = Syntax(
    "IMAGE [COMMAND] [ARG...]",
    "Print the launch plan of a container, system call by system call; no container is made",
    FLAGS,
    least=1,
    interspersed=False,
)


def main(options: Options, context: Context) -> int:
    """The plan in its golden form: a line for each operation, and the configuration's field that it comes from."""
    from orlop.engine.preview import preview

    config = container_config(options)
    with progress(config.image, options.quiet, options.pull != "always") as watcher:
        plan = preview(context.engine, config, options.pull, watcher)
    print(lines(plan.render()), end="")
    return 0
