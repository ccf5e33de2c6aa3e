"""`orlop save`: write images to an archive."""

from __future__ import annotations

import os
import sys

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, UsageError, missing, value
from orlop.spec.errors import os_errors

SYNTAX = Syntax(
    "IMAGE [IMAGE...]",
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    (value("-o --output", "Write to a file, instead of STDOUT"), *missing("--platform")),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """The archive is an OCI layout and in Docker's format at once. A file appears whole, or not at all."""
    images = context.engine.images
    if not options.output:
        if sys.stdout.isatty():
            raise UsageError("cowardly refusing to save to a terminal; use the -o flag or redirect")
        images.save(options.arguments, sys.stdout.buffer)
        return 0
    for name in options.arguments:
        images.resolve(name)
    partial = f"{options.output}.{os.getpid()}.partial"
    with os_errors("write"):
        file = open(partial, "xb")  # noqa: SIM115
    try:
        with file:
            images.save(options.arguments, file)
        with os_errors("write"):
            os.rename(partial, options.output)
    except BaseException:
        os.unlink(partial)
        raise
    return 0
