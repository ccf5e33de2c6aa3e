"""`orlop top`: the processes of a container."""

from __future__ import annotations

import sys

from orlop.cli.context import Context
from orlop.cli.docker.table import layout
from orlop.cli.flags import Options, Syntax

SYNTAX = Syntax("CONTAINER [ps OPTIONS]", "Display the running processes of a container", least=1, interspersed=False)


def main(options: Options, context: Context) -> int:
    """In the columns of `ps -ef`, or those that -o names."""
    name, *arguments = options.arguments
    table = context.engine.containers.top(name, tuple(arguments))
    sys.stdout.write(layout([table.titles, *table.rows], least=20))
    return 0
