"""`orlop tag`: give an image a further name."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax

SYNTAX = Syntax(
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    least=2,
    most=2,
)


def main(options: Options, context: Context) -> int:
    """Silence is success."""
    source, target = options.arguments
    context.engine.images.tag(source, target)
    return 0
