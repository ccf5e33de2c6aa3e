"""Blobs and manifests into a repository (distribution-spec, "Push")."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from urllib.parse import quote, urlencode

from orlop.distribution.errors import Transient
from orlop.distribution.hosts import Endpoint
from orlop.distribution.session import Progress, Remote
from orlop.distribution.transport import Response, Stream, Upload, discard, redirected
from orlop.spec.digest import Digest
from orlop.spec.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from orlop.spec.image import MAX_DOCUMENT, Descriptor, parse_manifest

Source = Callable[[], Stream]
_ACTIONS = "pull,push"


def push_blob(
    remote: Remote,
    descriptor: Descriptor,
    source: Source,
    *,
    mount_from: tuple[str, ...] = (),
    chunk: int = 0,
    progress: Progress | None = None,
) -> str:
    """Make the repository have a blob; returns how: `exists`, `mounted` or `pushed`.

    `source` opens the content anew at each call, so that a broken upload can start over. `mount_from` are paths of
    repositories in the same registry that may have the blob. With `chunk` the blob goes in pieces of that many bytes,
    else in one request.
    """
    tell = progress or _silent
    endpoint = _push_endpoint(remote)
    if _exists(remote, endpoint, descriptor):
        tell(descriptor.digest, descriptor.size, descriptor.size, "exists")
        return "exists"
    attempt = 0
    while True:
        try:
            state = _upload(remote, endpoint, descriptor, source, mount_from, chunk, tell)
            tell(descriptor.digest, descriptor.size, descriptor.size, state)
            return state
        except Transient as error:
            # A half-received upload stays with the server, which clears it up; a fresh one is sure to be whole.
            tell(descriptor.digest, 0, descriptor.size, "retrying")
            if not remote.session.retry.wait(attempt, error.retry_after):
                raise
            attempt += 1


def _silent(digest: str, done: int, total: int, state: str) -> None:
    return None


def _push_endpoint(remote: Remote) -> Endpoint:
    """One host takes a push whole: the first that may."""
    able = remote.able("push")
    if not able:
        raise FailedPrecondition(f"registry {remote.reference.domain}: no host in its hosts.toml may push")
    return able[0]


def _exists(remote: Remote, endpoint: Endpoint, descriptor: Descriptor) -> bool:
    response = remote.session.request(
        endpoint,
        "HEAD",
        remote.path(endpoint, f"blobs/{descriptor.digest}"),
        remote.asked(f"blob {descriptor.digest}", endpoint, "push"),
        scopes=remote.scopes(_ACTIONS),
        accepted=(200, 404),
    )
    discard(response)
    return response.status == 200


def _upload(
    remote: Remote,
    endpoint: Endpoint,
    descriptor: Descriptor,
    source: Source,
    mount_from: tuple[str, ...],
    chunk: int,
    progress: Progress,
) -> str:
    begun = _begin(remote, endpoint, descriptor, mount_from)
    if begun.status == 201:
        return "mounted"
    location = _location(remote, endpoint, begun)
    if chunk:
        location = _send_chunks(remote, endpoint, descriptor, source, location, chunk, progress)
        body: bytes | Upload = b""
    else:
        body = Upload(lambda: _Counted(source(), descriptor, 0, descriptor.size, progress), descriptor.size)
    final = location + ("&" if "?" in location else "?") + urlencode({"digest": descriptor.digest})
    _send(remote, endpoint, "PUT", final, body, descriptor, (201, 204))
    return "pushed"


def _begin(remote: Remote, endpoint: Endpoint, descriptor: Descriptor, mount_from: tuple[str, ...]) -> Response:
    """Ask for a mount from each source in turn; the last answer that is no mount is the upload to use. Earlier ones
    are cancelled by never being used."""
    for path in (*mount_from, ""):
        query = "?" + urlencode({"mount": descriptor.digest, "from": path}) if path else ""
        response = remote.session.request(
            endpoint,
            "POST",
            remote.path(endpoint, f"blobs/uploads/{query}"),
            remote.asked(f"blob {descriptor.digest}", endpoint, "push"),
            scopes=remote.scopes(_ACTIONS, *mount_from),
            accepted=(201, 202),
            body=b"",
            repeat=False,
        )
        discard(response)
        if response.status == 201 or path == (mount_from or ("",))[-1]:
            return response
    raise AssertionError("the loop ends with a return")


def _location(remote: Remote, endpoint: Endpoint, response: Response) -> str:
    location = response.headers.get("Location", "")
    if not location:
        raise Unavailable(f"registry {endpoint.authority}: opened an upload without saying where")
    return redirected(remote.session.transport.url(endpoint, "/"), location, endpoint)


def _send_chunks(
    remote: Remote,
    endpoint: Endpoint,
    descriptor: Descriptor,
    source: Source,
    location: str,
    chunk: int,
    progress: Progress,
) -> str:
    """PATCH after PATCH; each answer says where the next one goes."""
    with closing(source()) as stream:
        offset = 0
        while offset < descriptor.size:
            data = _read_full(stream, min(chunk, descriptor.size - offset), descriptor)
            headers = {
                "Content-Range": f"{offset}-{offset + len(data) - 1}",
                "Content-Type": "application/octet-stream",
            }
            response = _send(remote, endpoint, "PATCH", location, data, descriptor, (202, 204), headers)
            location = _location(remote, endpoint, response)
            offset += len(data)
            progress(descriptor.digest, offset, descriptor.size, "pushing")
    return location


def _read_full(stream: Stream, count: int, descriptor: Descriptor) -> bytes:
    data = b""
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    if len(data) != count:
        raise DataLoss(f"blob {descriptor.digest}: has fewer bytes than the {descriptor.size} of its descriptor")
    return data


def _send(
    remote: Remote,
    endpoint: Endpoint,
    method: str,
    url: str,
    body: bytes | Upload,
    descriptor: Descriptor,
    accepted: tuple[int, ...],
    headers: dict[str, str] | None = None,
) -> Response:
    response = remote.session.request(
        endpoint,
        method,
        url,
        remote.asked(f"blob {descriptor.digest}", endpoint, "push"),
        scopes=remote.scopes(_ACTIONS),
        accepted=accepted,
        headers=headers or {"Content-Type": "application/octet-stream"},
        body=body,
        repeat=False,
    )
    discard(response)
    return response


class _Counted:
    """A stream of exactly `size` bytes that tells how far it was read."""

    def __init__(self, stream: Stream, descriptor: Descriptor, done: int, size: int, progress: Progress) -> None:
        self._stream, self._descriptor, self._progress = stream, descriptor, progress
        self._done, self._size = done, size

    def read(self, count: int = -1) -> bytes:
        left = self._size - self._done
        data = self._stream.read(left if count < 0 else min(count, left))
        if not data and left:
            raise DataLoss(f"blob {self._descriptor.digest}: has fewer bytes than the {self._size} of its descriptor")
        self._done += len(data)
        self._progress(self._descriptor.digest, self._done, self._size, "pushing")
        return data

    def close(self) -> None:
        self._stream.close()


def push_manifest(remote: Remote, raw: bytes, media_type: str) -> Descriptor:
    """Store a manifest or index under the reference's tag, or under its own digest where there is no tag. Everything
    it points to must have been pushed before."""
    what = f"manifest {remote.reference.familiar}"
    parse_manifest(raw, media_type, what)
    digest = Digest.of(raw)
    if remote.reference.digest and remote.reference.digest != Digest.of(raw, Digest(remote.reference.digest).algorithm):
        raise InvalidArgument(f"{what}: its bytes have digest {digest}")
    if len(raw) > MAX_DOCUMENT:
        raise InvalidArgument(f"{what}: {len(raw)} bytes are more than the limit of {MAX_DOCUMENT}")
    endpoint = _push_endpoint(remote)
    target = remote.reference.tag or remote.reference.digest or digest
    response = remote.session.request(
        endpoint,
        "PUT",
        remote.path(endpoint, f"manifests/{quote(target, safe=':')}"),
        remote.asked(what, endpoint, "push"),
        scopes=remote.scopes(_ACTIONS),
        accepted=(200, 201, 202),
        headers={"Content-Type": media_type},
        body=raw,
    )
    discard(response)
    stored = response.headers.get("Docker-Content-Digest", "")
    if stored.startswith("sha256:") and stored != digest:
        raise DataLoss(f"{what}: the registry stored it as {stored[:80]!r}, want {digest}")
    return Descriptor(media_type=media_type, digest=str(digest), size=len(raw))
