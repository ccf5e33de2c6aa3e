"""`orlop pull`: bring an image from its registry."""

from __future__ import annotations

import sys

from orlop.cli.context import Context
from orlop.cli.docker.lazy_progress import LazyProgress
from orlop.cli.flags import Options, Syntax, missing, switch, value
from orlop.engine.images.image import reference_of
from orlop.spec.errors import InvalidArgument
from orlop.spec.reference import parse_reference

SYNTAX = Syntax(
    "NAME[:TAG|@DIGEST]",
    "Download an image from a registry",
    (
        value("--platform", "Set platform if the image is for several"),
        switch("--all-platforms", "Bring the images of every platform"),
        switch("-q --quiet", "Suppress verbose output"),
        switch("--watch", "Join a pull that is under way, as one of the kubelet's, and show its progress"),
        *missing("-a", "--all-tags", "--disable-content-trust"),
    ),
    least=1,
    most=1,
)


def main(options: Options, context: Context) -> int:
    """Print the image's full name at the end, as Docker does."""
    reference = parse_reference(options.arguments[0])
    if options.watch:
        from orlop.cli.docker.pull_watch import watch

        if options.platform or options.all_platforms:
            raise InvalidArgument("--watch shows a pull as it was begun: it goes with no platform")
        return watch(context, reference, options.quiet)
    images = context.engine.images
    if not options.quiet:
        if not reference.digest and ":" not in options.arguments[0].rpartition("/")[2]:
            print("Using default tag: latest")
        print(f"{reference.tag or reference.digest}: Pulling from {reference.path}", flush=True)
    before = images.find(str(reference))
    watcher = None if options.quiet else LazyProgress(sys.stdout)
    try:
        image = images.pull(str(reference), options.platform, watcher, all_platforms=options.all_platforms)
    finally:
        if watcher is not None:
            watcher.close()
    if not options.quiet:
        print(f"Digest: {image.digest}")
        same = before is not None and before.digest == image.digest
        news = "Image is up to date" if same else "Downloaded newer image"
        shown = reference_of(image.name)
        print(f"Status: {news} for {shown.familiar if shown else reference.familiar}")
    print(reference)
    return 0
