"""`orlop rmi`: remove images."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, missing, switch
from orlop.cli.report import for_each
from orlop.spec.errors import NotFound

SYNTAX = Syntax(
    "IMAGE [IMAGE...]",
    "Remove one or more images",
    (switch("-f --force", "Force removal of the image"), *missing("--no-prune", "--platform")),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """Print what was untagged and what was deleted. With -f an image that was never there is no failure."""

    def remove(name: str) -> str | None:
        try:
            removed = context.engine.images.remove(name, force=options.force)
        except NotFound as error:
            if not options.force:
                raise
            from orlop.cli.report import report

            report(error.message)
            return None
        lines = [f"Untagged: {text}" for text in removed.untagged] + [f"Deleted: {text}" for text in removed.deleted]
        return "\n".join(lines) or None

    return for_each(options.arguments, remove)
