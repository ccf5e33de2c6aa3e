"""From a reference to a manifest: `GET /v2/<name>/manifests/<tag or digest>`, believed as far as checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from orlop.distribution.errors import clean, not_a_registry
from orlop.distribution.hosts import Endpoint
from orlop.distribution.session import Remote
from orlop.distribution.transport import Response, discard, read_whole
from orlop.spec.digest import Digest
from orlop.spec.errors import DataLoss, FailedPrecondition, InvalidArgument, OrlopError
from orlop.spec.image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    parse_manifest,
)

ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST, "*/*;q=0.1"))
_KNOWN = INDEX_TYPES | MANIFEST_TYPES | {DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED}
# What registries say when they say nothing; the document's own `mediaType` is believed then
_VAGUE = frozenset({"", "application/json", "application/octet-stream", "text/plain"})

T = TypeVar("T")


class Resolved(NamedTuple):
    """A descriptor and the manifest's bytes, whose digest it has."""

    descriptor: Descriptor
    raw: bytes


def resolve(remote: Remote) -> Resolved:
    """The manifest or index that the reference means now, verified."""
    return first_that_can(remote, "resolve", lambda endpoint: _get(remote, endpoint))


def head(remote: Remote) -> Descriptor:
    """The descriptor alone, as the registry claims it (HEAD): nothing is verified, and pull limits don't count it."""
    return first_that_can(remote, "resolve", lambda endpoint: _head(remote, endpoint))


def first_that_can(remote: Remote, capability: str, act: Callable[[Endpoint], T]) -> T:
    """Try the endpoints that have a capability in order; the last one's error is the one to show: that is the server,
    the others are mirrors."""
    failure: OrlopError = FailedPrecondition(f"registry {remote.reference.domain}: no host may {capability}")
    for endpoint in remote.able(capability):
        try:
            return act(endpoint)
        except OrlopError as error:
            failure = error
    raise failure


def _wanted(remote: Remote) -> str:
    if not (remote.reference.digest or remote.reference.tag):
        raise InvalidArgument(f"image reference {remote.reference.familiar!r}: has neither tag nor digest")
    return remote.reference.digest or remote.reference.tag


def _request(remote: Remote, endpoint: Endpoint, method: str) -> Response:
    return remote.session.request(
        endpoint,
        method,
        remote.path(endpoint, f"manifests/{_wanted(remote)}"),
        remote.asked(f"manifest {remote.reference.familiar}", endpoint),
        scopes=remote.scopes("pull"),
        headers={"Accept": ACCEPT},
    )


def _get(remote: Remote, endpoint: Endpoint) -> Resolved:
    response = _request(remote, endpoint, "GET")
    what = f"manifest {remote.reference.familiar}"
    media_type = _media_type(response, endpoint)
    raw = read_whole(response, MAX_DOCUMENT, what, endpoint.authority)
    digest = _verified(raw, remote.reference.digest, response.headers.get("Docker-Content-Digest", ""), what)
    document = parse_manifest(raw, media_type, what).value
    if media_type not in _KNOWN:
        media_type = document.media_type or (OCI_INDEX if isinstance(document, Index) else OCI_MANIFEST)
    return Resolved(Descriptor(media_type=media_type, digest=str(digest), size=len(raw)), raw)


def _head(remote: Remote, endpoint: Endpoint) -> Descriptor:
    response = _request(remote, endpoint, "HEAD")
    media_type = _media_type(response, endpoint)
    claimed = response.headers.get("Docker-Content-Digest", "")
    size = response.headers.get("Content-Length", "")
    discard(response)
    if not claimed or not size.isdigit() or media_type not in _KNOWN:
        # Digest and size are optional in the specification; the whole document tells.
        return _get(remote, endpoint).descriptor
    return Descriptor(media_type=media_type, digest=str(Digest(claimed)), size=int(size))


def _media_type(response: Response, endpoint: Endpoint) -> str:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if media_type in _KNOWN:
        return media_type
    if media_type in _VAGUE or media_type.endswith("+json"):
        return "" if media_type in _VAGUE else media_type
    discard(response)
    raise not_a_registry(endpoint.authority, media_type)


def _verified(raw: bytes, wanted: str, claimed: str, what: str) -> Digest:
    """The digest of the bytes, which must be what was asked for and what the registry says it is."""
    if claimed:
        try:
            said = Digest(claimed)
        except InvalidArgument:
            raise DataLoss(f"{what}: the registry calls it {clean(claimed, 80)!r}, which is no digest") from None
        if (actual := Digest.of(raw, said.algorithm)) != said:
            raise DataLoss(f"{what}: the registry calls it {said}, but its bytes have digest {actual}")
    if wanted and (actual := Digest.of(raw, Digest(wanted).algorithm)) != wanted:
        raise DataLoss(f"{what}: its bytes have digest {actual}")
    return Digest(wanted or claimed or Digest.of(raw))
