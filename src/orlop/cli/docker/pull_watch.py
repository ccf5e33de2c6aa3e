"""`orlop pull --watch`: the progress of a pull that another process has begun, in any namespace.

It begins none itself: what it brought would be in another namespace than who waits for it looks into.
"""

from __future__ import annotations

import sys

from orlop.cli.context import Context
from orlop.cli.docker.lazy_progress import LazyProgress
from orlop.engine.images.pulls import PullRecord, UnderWay
from orlop.spec.errors import NotFound, Unavailable
from orlop.spec.reference import Reference


def watch(context: Context, reference: Reference, quiet: bool) -> int:
    """Until no pull of the image is under way; 0 where the last one brought it. Where none is: 0 if the image is there
    in some namespace, which is what a script waits for, else an error."""
    pull = _joined(context, reference)
    if pull is None:
        return _none(context, reference, quiet)
    if not quiet:
        where = f" (namespace {pull.record.namespace}, process {pull.record.owner.pid})"
        print(f"{reference.tag or reference.digest}: Pulling from {reference.path}{where}", flush=True)
    ended = pull.record
    while pull is not None:
        ended = _follow(pull, quiet)
        pull = None if ended.digest else _joined(context, reference)  # another one may have waited for this one
    if ended.error:
        raise Unavailable(f"the pull of {reference.familiar} has failed: {ended.error}")
    if not quiet:
        print(f"Digest: {ended.digest}")
        print(f"Status: {reference.familiar} is there, in namespace {ended.namespace}")
    print(reference)
    return 0


def _follow(pull: UnderWay, quiet: bool) -> PullRecord:
    try:
        if quiet:
            return pull.follow(lambda _: None)
        with LazyProgress(sys.stdout) as progress:
            return pull.follow(progress)
    finally:
        pull.close()


def _joined(context: Context, reference: Reference) -> UnderWay | None:
    """The oldest pull of the image: it is the one that the others wait for."""
    found = None
    for pull in context.engine.images.under_way():
        if found is None and pull.record.reference == str(reference):
            found = pull
        else:
            pull.close()
    return found


def _none(context: Context, reference: Reference, quiet: bool) -> int:
    if not (where := context.engine.images.namespaces_with(reference)):
        raise NotFound(f"no pull of {reference.familiar} is under way, and the image is not there")
    if not quiet:
        print(f"Status: no pull is under way; {reference.familiar} is there, in namespace {', '.join(where)}")
    print(reference)
    return 0
