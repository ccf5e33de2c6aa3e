"""`orlop push`: send an image to the registry that its name says."""

from __future__ import annotations

import sys

from orlop.cli.context import Context
from orlop.cli.docker.lazy_progress import LazyProgress
from orlop.cli.flags import Options, Syntax, missing, switch
from orlop.spec.reference import parse_reference

SYNTAX = Syntax(
    "NAME[:TAG]",
    "Upload an image to a registry",
    (
        switch("-q --quiet", "Suppress verbose output"),
        *missing("-a", "--all-tags", "--disable-content-trust", "--platform"),
    ),
    least=1,
    most=1,
)


def main(options: Options, context: Context) -> int:
    """Print the digest that the registry has it by, or with -q the name."""
    reference = parse_reference(options.arguments[0])
    watcher = None
    if not options.quiet:
        if ":" not in options.arguments[0].rpartition("/")[2]:
            print("Using default tag: latest")
        print(f"The push refers to repository [{reference.name}]", flush=True)
        watcher = LazyProgress(sys.stdout, "Push")
    try:
        digest = context.engine.images.push(str(reference), watcher)
    finally:
        if watcher is not None:
            watcher.close()
    print(reference if options.quiet else f"{reference.tag}: digest: {digest}")
    return 0
