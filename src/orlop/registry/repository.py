"""What a registry knows about its repositories: which blobs, manifests, tags and referrers each one has.

Content is shared between repositories, membership is not: a blob can be read through a repository only once it was
pushed or mounted there.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec

from orlop.registry.messages import Refused
from orlop.registry.storage import Storage, Upload
from orlop.spec.digest import Digest
from orlop.spec.errors import InvalidArgument, OrlopError
from orlop.spec.image import Descriptor, Index, Manifest, parse_manifest

_UPLOAD_SECONDS = 3600  # an upload that nobody goes on with for so long is dropped


class Stored(msgspec.Struct, frozen=True):
    """A manifest as it was pushed."""

    digest: Digest
    media_type: str
    raw: bytes


class _Pending(msgspec.Struct):
    upload: Upload
    touched: float


class Repositories:
    """All repositories over one storage; verbs of the distribution-spec without HTTP."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._uploads: dict[tuple[str, str], _Pending] = {}
        self._lock = threading.Lock()

    # Blobs

    def blob_size(self, name: str, digest: Digest) -> int | None:
        """Size of a blob that the repository has, or None."""
        linked = self.storage.get(_blob_key(name, digest)) is not None
        return self.storage.size(digest) if linked else None

    def mount(self, name: str, digest: Digest, source: str) -> bool:
        """Make a blob of repository `source` one of `name` too."""
        if self.blob_size(source, digest) is None:
            return False
        self.storage.put(_blob_key(name, digest), b"")
        return True

    def delete_blob(self, name: str, digest: Digest) -> None:
        if not self.storage.remove(_blob_key(name, digest)):
            raise Refused("BLOB_UNKNOWN", digest)

    # Uploads

    def begin(self, name: str) -> str:
        """Open an upload; its id goes into the URL."""
        import secrets

        key = secrets.token_hex(16)
        now = time.monotonic()
        with self._lock:
            stale = [at for at, pending in self._uploads.items() if pending.touched < now - _UPLOAD_SECONDS]
            left = [self._uploads.pop(at) for at in stale]
            self._uploads[name, key] = _Pending(self.storage.upload(), now)
        for pending in left:
            pending.upload.abort()
        return key

    def upload(self, name: str, key: str) -> Upload:
        found = self._uploads.get((name, key))
        if found is None:
            raise Refused("BLOB_UPLOAD_UNKNOWN")
        found.touched = time.monotonic()
        return found.upload

    def finish(self, name: str, key: str, digest: Digest) -> None:
        upload = self._take(name, key)
        if not upload.commit(digest):
            raise Refused("DIGEST_INVALID", digest)
        self.storage.put(_blob_key(name, digest), b"")

    def cancel(self, name: str, key: str) -> None:
        self._take(name, key).abort()

    def _take(self, name: str, key: str) -> Upload:
        with self._lock:
            found = self._uploads.pop((name, key), None)
        if found is None:
            raise Refused("BLOB_UPLOAD_UNKNOWN")
        return found.upload

    def abandon(self) -> None:
        """Drop every unfinished upload."""
        with self._lock:
            left, self._uploads = list(self._uploads.values()), {}
        for pending in left:
            pending.upload.abort()

    # Manifests

    def manifest(self, name: str, reference: str) -> Stored:
        digest = self._resolve(name, reference)
        media_type = self.storage.get(_manifest_key(name, digest))
        content = None if media_type is None else self.storage.open(digest)
        if media_type is None or content is None:
            raise Refused("MANIFEST_UNKNOWN", reference)
        with content:
            return Stored(digest, media_type.decode(), content.read())

    def _resolve(self, name: str, reference: str) -> Digest:
        if ":" in reference:
            return digest_or_refuse(reference)
        tagged = self.storage.get(_tag_key(name, reference))
        if tagged is None:
            raise Refused("MANIFEST_UNKNOWN", reference)
        return Digest(tagged.decode())

    def put_manifest(self, name: str, reference: str, raw: bytes, media_type: str) -> tuple[Digest, str]:
        """Store a manifest by tag or digest; gives its digest and that of its subject, or ""."""
        by_digest = ":" in reference
        digest = Digest.of(raw, digest_or_refuse(reference).algorithm if by_digest else "sha256")
        if by_digest and digest != reference:
            raise Refused("DIGEST_INVALID", f"content is {digest}")
        parsed = self._checked(name, raw, media_type)
        upload = self.storage.upload()
        upload.write(raw)
        upload.commit(digest)
        self.storage.put(_manifest_key(name, digest), media_type.encode())
        if parsed.subject is not None:
            own = _referrer(parsed, digest, media_type, len(raw))
            self.storage.put(_referrer_key(name, parsed.subject.digest, digest), msgspec.json.encode(own))
        if not by_digest:
            self.storage.put(_tag_key(name, reference), digest.encode())
        return digest, parsed.subject.digest if parsed.subject is not None else ""

    def _checked(self, name: str, raw: bytes, media_type: str) -> Manifest | Index:
        """Parse, and insist on everything it points to being there, so that what was pushed can be pulled."""
        try:
            parsed = parse_manifest(raw, media_type, "manifest").value
        except OrlopError as error:
            raise Refused("MANIFEST_INVALID", str(error)) from None
        if isinstance(parsed, Manifest):
            wanted = [parsed.config, *(layer for layer in parsed.layers if not layer.urls)]
            missing = [d.digest for d in wanted if self.blob_size(name, Digest(d.digest)) is None]
        else:
            keys = {d.digest: _manifest_key(name, Digest(d.digest)) for d in parsed.manifests}
            missing = [digest for digest, key in keys.items() if self.storage.get(key) is None]
        if missing:
            raise Refused("MANIFEST_BLOB_UNKNOWN", missing[0])
        return parsed

    def delete_manifest(self, name: str, reference: str) -> None:
        """By tag: the tag alone. By digest: the manifest, every tag on it and its place among the referrers."""
        if ":" not in reference:
            if not self.storage.remove(_tag_key(name, reference)):
                raise Refused("MANIFEST_UNKNOWN", reference)
            return
        stored = self.manifest(name, reference)
        subject = parse_manifest(stored.raw, stored.media_type, "manifest").value.subject
        if subject is not None:
            self.storage.remove(_referrer_key(name, subject.digest, stored.digest))
        for tag in self.storage.names(f"{name}/_tags"):
            if self.storage.get(_tag_key(name, tag)) == stored.digest.encode():
                self.storage.remove(_tag_key(name, tag))
        self.storage.remove(_manifest_key(name, stored.digest))

    def tags(self, name: str) -> list[str]:
        tags = self.storage.names(f"{name}/_tags")
        if not tags and not any(self.storage.names(f"{name}/_manifests/{a}") for a in ("sha256", "sha384", "sha512")):
            raise Refused("NAME_UNKNOWN", name)
        return tags

    def referrers(self, name: str, digest: Digest) -> list[dict[str, Any]]:
        """Descriptors of the manifests whose subject is `digest`; empty where there are none."""
        prefix = f"{name}/_referrers/{digest.algorithm}-{digest.hex}"
        records = (self.storage.get(f"{prefix}/{key}") for key in self.storage.names(prefix))
        return [msgspec.json.decode(record) for record in records if record is not None]


def _referrer(parsed: Manifest | Index, digest: Digest, media_type: str, size: int) -> Descriptor:
    """distribution-spec, "Listing Referrers": artifactType falls back to the config's media type."""
    artifact = parsed.artifact_type
    if not artifact and isinstance(parsed, Manifest):
        artifact = parsed.config.media_type
    return Descriptor(
        media_type=media_type, digest=str(digest), size=size, artifact_type=artifact, annotations=parsed.annotations
    )


def digest_or_refuse(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidArgument as error:
        raise Refused("DIGEST_INVALID", str(error)) from None


def _blob_key(name: str, digest: Digest) -> str:
    return f"{name}/_blobs/{digest.algorithm}/{digest.hex}"


def _manifest_key(name: str, digest: Digest) -> str:
    return f"{name}/_manifests/{digest.algorithm}/{digest.hex}"


def _tag_key(name: str, tag: str) -> str:
    return f"{name}/_tags/{tag}"


def _referrer_key(name: str, subject: str, digest: Digest) -> str:
    return f"{name}/_referrers/{subject.replace(':', '-')}/{digest.algorithm}-{digest.hex}"
