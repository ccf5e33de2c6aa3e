"""The registry client: one object for every registry, thread-safe, with connections and tokens kept between calls.

registry = Registry()
reference = parse_reference("redis:7")
descriptor, raw = registry.resolve(reference)
...
with store.writer(layer) as writer:
    registry.fetch_blob(reference, layer, writer, progress)
    writer.commit()
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

from orlop.distribution import fetch, push, resolve
from orlop.distribution.auth import Authorizer
from orlop.distribution.credentials import Credentials, DockerConfig
from orlop.distribution.errors import Asked, clean, not_a_registry
from orlop.distribution.fetch import Writer
from orlop.distribution.hosts import Endpoint, Hosts
from orlop.distribution.push import Source
from orlop.distribution.resolve import Resolved, first_that_can
from orlop.distribution.session import Progress, Remote, Retry, Session
from orlop.distribution.transport import Timeouts, Transport, discard, read_whole, redirected
from orlop.spec.document import decode
from orlop.spec.errors import ResourceExhausted
from orlop.spec.image import Descriptor
from orlop.spec.reference import Reference

_MAX_LIST = 4 << 20  # bytes of one page of tags
_MAX_PAGES = 2000
_NEXT = re.compile(r'\s*<([^>]*)>\s*;\s*rel="?next"?')


class _Tags(msgspec.Struct):
    tags: tuple[str, ...] | None = None


class Registry:
    """Verbs on registries. `insecure` adds to `hosts.insecure`: hosts or nets with which plain HTTP will do.

    `offline` is for a login: it asks token servers for a refresh token as well (`refresh_token`).
    """

    def __init__(
        self,
        hosts: Hosts | None = None,
        credentials: Credentials | None = None,
        *,
        insecure: tuple[str, ...] = (),
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        offline: bool = False,
    ) -> None:
        hosts = hosts or Hosts()
        self._hosts = msgspec.structs.replace(hosts, insecure=(*hosts.insecure, *insecure))
        self._transport = Transport(timeouts or Timeouts())
        self._authorizer = Authorizer(self._transport, credentials or DockerConfig(), offline=offline)
        self._session = Session(self._transport, self._authorizer, retry or Retry())

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop kept connections."""
        self._transport.close()

    def resolve(self, reference: Reference) -> Resolved:
        """(descriptor, bytes) of the manifest or index that a reference means; the digest is checked."""
        return resolve.resolve(self._remote(reference))

    def head(self, reference: Reference) -> Descriptor:
        """The descriptor as the registry claims it, without the download: to see whether a tag has moved."""
        return resolve.head(self._remote(reference))

    def fetch_manifest(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest that an index of the same repository points to."""
        child = Reference(reference.domain, reference.path, "", str(descriptor.digest))
        return resolve.resolve(self._remote(child)).raw

    def read_blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A small blob, such as an image's configuration, verified."""
        return fetch.read_blob(self._remote(reference), descriptor)

    def fetch_blob(
        self, reference: Reference, descriptor: Descriptor, writer: Writer, progress: Progress | None = None
    ) -> None:
        """Write what is missing of a blob, from `writer.offset`; the caller commits, which checks the digest."""
        fetch.fetch_blob(self._remote(reference), descriptor, writer, progress)

    def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        source: Source,
        *,
        mount_from: tuple[str, ...] = (),
        chunk: int = 0,
        progress: Progress | None = None,
    ) -> str:
        """Make the repository have a blob: `exists`, `mounted` or `pushed`. `source()` opens its content."""
        return push.push_blob(
            self._remote(reference), descriptor, source, mount_from=mount_from, chunk=chunk, progress=progress
        )

    def push_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Descriptor:
        """Store a manifest or index by the reference's tag, or by digest where it has none."""
        return push.push_manifest(self._remote(reference), raw, media_type)

    def tags(self, reference: Reference) -> list[str]:
        """Every tag of a repository, in the registry's order."""
        remote = self._remote(reference)
        return first_that_can(remote, "resolve", lambda endpoint: self._tags(remote, endpoint))

    def ping(self, domain: str) -> None:
        """`GET /v2/` with authentication: returns where the registry accepts the credentials."""
        endpoint = self._hosts.endpoints(domain)[-1]
        asked = Asked("/v2/", domain, endpoint.authority, "login")
        response = self._session.request(endpoint, "GET", "/", asked)
        discard(response)
        if "html" in (kind := response.headers.get("Content-Type", "")):
            raise not_a_registry(endpoint.authority, kind)

    def refresh_token(self, domain: str) -> str:
        """The refresh token that the registry's token server gave, or ""."""
        return self._authorizer.refresh_tokens.get(self._hosts.endpoints(domain)[-1].authority, "")

    def _remote(self, reference: Reference) -> Remote:
        return Remote(self._session, self._hosts.endpoints(reference.domain), reference)

    def _tags(self, remote: Remote, endpoint: Endpoint) -> list[str]:
        tags: list[str] = []
        url = remote.path(endpoint, "tags/list?n=1000")
        what = f"tag list of {remote.reference.familiar_name}"
        asked = remote.asked(what, endpoint)
        for _ in range(_MAX_PAGES):
            response = self._session.request(endpoint, "GET", url, asked, scopes=remote.scopes("pull"))
            link = response.headers.get("Link", "")
            page = decode(read_whole(response, _MAX_LIST, what, endpoint.authority), _Tags, what).tags or ()
            tags += (clean(tag, 128) for tag in page)
            url = self._next(endpoint, link) if page else ""
            if not url:
                return tags
        raise ResourceExhausted(f"{what}: more than {_MAX_PAGES} pages")

    def _next(self, endpoint: Endpoint, link: str) -> str:
        """The URL of the next page (RFC 8288), on the same host or nowhere."""
        match = _NEXT.match(link)
        if match is None:
            return ""
        following = redirected(self._transport.url(endpoint, "/"), match[1], endpoint)
        return following if urlsplit(following).netloc == endpoint.authority else ""
