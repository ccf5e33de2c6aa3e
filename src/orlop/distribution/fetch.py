"""Blobs into a writer: resumed where they broke off, from the next mirror where a host fails.

Digest and durability are the writer's: after `fetch` the caller commits it, which checks both. `fetch` itself makes
sure that no byte beyond the descriptor's size is written and that a resumed blob has no gap.
"""

from __future__ import annotations

import re
from typing import Protocol

import msgspec

from orlop.distribution.errors import Interrupted
from orlop.distribution.hosts import Endpoint
from orlop.distribution.resolve import first_that_can
from orlop.distribution.session import Progress, Remote
from orlop.distribution.transport import Response, explain
from orlop.spec.digest import Digest
from orlop.spec.errors import DataLoss, DeadlineExceeded, InvalidArgument, Unavailable
from orlop.spec.image import MAX_DOCUMENT, Descriptor
from orlop.standins import deferred

with deferred():
    import urllib3

_PIECE = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Writer(Protocol):
    """What a blob is written to: `offset` says how much of it is there (`content.ingest.BlobWriter` is one)."""

    @property
    def offset(self) -> int: ...

    def write(self, data: bytes) -> object: ...


class _Plan(msgspec.Struct, frozen=True):
    """How the answer is to be used: leave out `skip` bytes, then `take` bytes."""

    skip: int
    take: int


def fetch_blob(remote: Remote, descriptor: Descriptor, writer: Writer, progress: Progress | None = None) -> None:
    """Write what is missing of a blob. On return `writer.offset == descriptor.size`; commit is the caller's.

    `progress(digest, bytes so far, size, state)` is called from this thread; states are `downloading`, `retrying` and
    `downloaded`.
    """
    tell = progress or _silent
    if writer.offset < descriptor.size:
        first_that_can(remote, "pull", lambda endpoint: _from(remote, endpoint, descriptor, writer, tell))
    tell(descriptor.digest, writer.offset, descriptor.size, "downloaded")


def read_blob(remote: Remote, descriptor: Descriptor) -> bytes:
    """A small blob (a configuration) as bytes, verified; larger than a document may be is refused."""
    if descriptor.size > MAX_DOCUMENT:
        raise InvalidArgument(f"blob {descriptor.digest}: {descriptor.size} bytes are more than {MAX_DOCUMENT}")
    buffer = _Buffer()
    fetch_blob(remote, descriptor, buffer)
    digest = Digest(descriptor.digest)
    if Digest.of(bytes(buffer.data), digest.algorithm) != digest:
        raise DataLoss(f"blob {digest}: its bytes have another digest")
    return bytes(buffer.data)


class _Buffer:
    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def offset(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data


def _silent(digest: str, done: int, total: int, state: str) -> None:
    return None


def _from(remote: Remote, endpoint: Endpoint, descriptor: Descriptor, writer: Writer, progress: Progress) -> None:
    """From one endpoint; a broken connection is taken up again where it broke, a few times."""
    ranges = True
    attempt = 0
    while True:
        try:
            response = _ask(remote, endpoint, descriptor, writer.offset if ranges else 0)
            plan = _plan(response, descriptor, writer.offset)
            if plan is None:
                # The server counts otherwise than it was asked to: from the start then, leaving out what is there.
                response.close()
                ranges = False
                continue
            _copy(response, plan, descriptor, writer, progress, endpoint)
            return
        except (Interrupted, DeadlineExceeded) as error:
            progress(descriptor.digest, writer.offset, descriptor.size, "retrying")
            if not remote.session.retry.wait(attempt):
                done = f"{writer.offset} of {descriptor.size} bytes"
                raise Unavailable(f"blob {Digest(descriptor.digest).short}: {error} after {done}") from error
            attempt += 1


def _ask(remote: Remote, endpoint: Endpoint, descriptor: Descriptor, offset: int) -> Response:
    return remote.session.request(
        endpoint,
        "GET",
        remote.path(endpoint, f"blobs/{descriptor.digest}"),
        remote.asked(f"blob {descriptor.digest}", endpoint),
        scopes=remote.scopes("pull"),
        accepted=(200, 206, 416) if offset else (200,),
        headers={"Range": f"bytes={offset}-"} if offset else {},
    )


def _plan(response: Response, descriptor: Descriptor, offset: int) -> _Plan | None:
    """What of the answer is wanted, or None where it is a part that does not fit."""
    size = descriptor.size
    announced = response.headers.get("Content-Length", "")
    if response.status == 200:
        if announced.isdigit() and int(announced) != size:
            response.close()
            raise DataLoss(f"blob {descriptor.digest}: the registry has {int(announced)} bytes, want {size}")
        return _Plan(offset, size - offset)
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or match is None:
        return None
    fits = int(match[1]) == offset and int(match[2]) == size - 1 and match[3] in (str(size), "*")
    fits = fits and announced in ("", str(size - offset))
    return _Plan(0, size - offset) if fits else None


def _copy(
    response: Response, plan: _Plan, descriptor: Descriptor, writer: Writer, progress: Progress, endpoint: Endpoint
) -> None:
    skip, left = plan.skip, plan.take
    try:
        while left:
            data = _read(response, endpoint, skip + left)
            if not data:
                raise Interrupted(f"registry {endpoint.authority}: the answer ended early")
            if skip:
                skip, data = max(0, skip - len(data)), data[skip:]
            writer.write(data)
            left -= len(data)
            progress(descriptor.digest, writer.offset, descriptor.size, "downloading")
        # Only an answer without a Content-Length can have more to give.
        if not response.headers.get("Content-Length") and _read(response, endpoint, 1):
            raise DataLoss(f"blob {descriptor.digest}: the registry sends more than {descriptor.size} bytes")
    except BaseException:
        response.close()
        raise
    response.release_conn()


def _read(response: Response, endpoint: Endpoint, most: int) -> bytes:
    """One piece, as the network gives it: followers of the writer need not wait for a full buffer."""
    try:
        return response.read1(min(_PIECE, most), decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise explain(error, endpoint.authority) from error
