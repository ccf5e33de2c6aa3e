"""`orlop load`: take images out of an archive."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from orlop.cli.context import Context
from orlop.cli.docker.lazy_progress import LazyProgress
from orlop.cli.flags import Options, Syntax, UsageError, switch, value
from orlop.engine.images.image import Image, reference_of
from orlop.spec.errors import os_errors

SYNTAX = Syntax(
    "",
    "Load an image from a tar archive or STDIN",
    (
        value("-i --input", "Read from tar archive file, instead of STDIN"),
        value("--platform", "Load only the given platform's image"),
        switch("-q --quiet", "Suppress the load output"),
    ),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """Print each name that was loaded, or the ID of an image without one."""
    if not options.input and sys.stdin.isatty():
        raise UsageError("requested load from stdin, but stdin is empty")
    watcher = None if options.quiet or not sys.stdout.isatty() else LazyProgress(sys.stdout, "Load")
    try:
        for image in _load(options, context, watcher):
            reference = reference_of(image.name)
            print(f"Loaded image: {reference.familiar}" if reference else f"Loaded image ID: {image.id}")
    finally:
        if watcher is not None:
            watcher.close()
    return 0


def _load(options: Options, context: Context, watcher: LazyProgress | None) -> Sequence[Image]:
    images = context.engine.images
    if not options.input:
        return images.load(sys.stdin.buffer, watcher, platform=options.platform)
    with os_errors("open"):
        file = open(options.input, "rb")  # noqa: SIM115
    with file:
        return images.load(file, watcher, platform=options.platform)
