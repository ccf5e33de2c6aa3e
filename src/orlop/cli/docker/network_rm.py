"""`orlop network rm`."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, switch
from orlop.cli.report import for_each
from orlop.spec.errors import NotFound

SYNTAX = Syntax(
    "NETWORK [NETWORK...]",
    "Remove one or more networks",
    (switch("-f --force", "Do not error if the network does not exist"),),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """Print the name of each network that is gone."""

    def remove(name: str) -> str | None:
        try:
            context.engine.networks.remove(name)
        except NotFound:
            if not options.force:
                raise
            return None
        return name

    return for_each(options.arguments, remove)
