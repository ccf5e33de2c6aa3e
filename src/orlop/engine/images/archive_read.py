"""Read the members of an image archive: a tar, perhaps compressed, as a stream, from anyone.

Nothing is ever written under a name that the archive gives. Small documents are kept in memory; everything else goes
into the content store under its digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import msgspec

from orlop.content.store import ContentStore
from orlop.layers.decompress import CHUNK, Counted, chunks
from orlop.layers.limits import Limits
from orlop.metadata.leases import CONTENT, Lease
from orlop.spec.digest import Digest
from orlop.spec.errors import InvalidArgument, ResourceExhausted, Unimplemented
from orlop.spec.image import MAX_DOCUMENT, OCI_LAYER, Descriptor
from orlop.wire import tar

MAX_MEMBERS = 100_000
MAX_DOCUMENTS = 64 << 20  # bytes of all documents together
_MAX_LINKS = 8  # symbolic links followed one after the other
_BLOB = re.compile(r"blobs/([a-z0-9]+)/([a-f0-9]+)")
_DOCUMENT = re.compile(r"(?:.*\.json|.*/json|oci-layout|repositories|.*/VERSION)")
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\x00", "xz"), (b"BZh", "bzip2"))


class Stored(msgspec.Struct, frozen=True):
    """A member that has gone into the content store."""

    digest: str
    size: int


class Archive(msgspec.Struct, frozen=True):
    """What an archive held, by path: documents, blobs, and links between them."""

    documents: dict[str, bytes]
    blobs: dict[str, Stored]
    links: dict[str, str]

    def blob(self, path: str) -> Stored:
        """The blob at `path`, through links inside the archive."""
        found = self.blobs.get(self._follow(path))
        if found is None:
            raise InvalidArgument(f"archive: {path[:160]!r} is named in it but missing")
        return found

    def document(self, path: str) -> bytes | None:
        return self.documents.get(self._follow(path))

    def _follow(self, path: str) -> str:
        path = clean(path.encode())
        for _ in range(_MAX_LINKS):
            if path not in self.links:
                return path
            path = self.links[path]
        raise InvalidArgument(f"archive: {path[:160]!r}: too many links")


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression_by_magic(head: bytes) -> str:
    """gzip, zstd, xz, bzip2 or "" (a plain tar), by the first bytes."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def read_archive(stream: Readable, content: ContentStore, lease: Lease) -> Archive:
    """Read to the end; blobs go into `content` under `lease`, checked against their digests where their paths have
    them."""
    archive = Archive({}, {}, {})
    decoder = tar.Decoder()
    pieces = _plain(stream)
    for count, entry in enumerate(_entries(decoder, pieces)):
        if count >= MAX_MEMBERS:
            raise ResourceExhausted(f"archive: more than {MAX_MEMBERS} members")
        path = clean(entry.path)
        if entry.kind is tar.FILE:
            _take(path, entry, _contents(decoder, pieces), archive, content, lease)
        elif entry.kind in (tar.SYMLINK, tar.HARDLINK):
            archive.links[path] = _target(path, entry)
        elif entry.kind is not tar.DIRECTORY:
            raise InvalidArgument(f"archive: {path[:160]!r} is a {entry.kind}")
    return archive


def clean(path: bytes) -> str:
    """A member's path in one form. Absolute ones and those with `..` are refused."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise InvalidArgument(f"archive: path {path[:80]!r} is not UTF-8") from None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or ".." in parts:
        raise InvalidArgument(f"archive: path {text[:160]!r} leads out of the archive")
    return "/".join(parts)


def _target(path: str, entry: tar.Entry) -> str:
    """Where a link leads inside the archive. Docker links the layer of one image to that of another."""
    if entry.kind is tar.HARDLINK:
        return clean(entry.link)
    parts = path.split("/")[:-1]
    for part in entry.link.decode(errors="replace").split("/"):
        if part == "..":
            if not parts:
                raise InvalidArgument(f"archive: link {path[:160]!r} leads out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if entry.link.startswith(b"/"):
        raise InvalidArgument(f"archive: link {path[:160]!r} leads out of the archive")
    return "/".join(parts)


def _take(
    path: str, entry: tar.Entry, contents: Iterator[bytes], archive: Archive, content: ContentStore, lease: Lease
) -> None:
    if entry.segments is not None:
        raise Unimplemented(f"archive: {path[:160]!r} is stored as a sparse file")
    named = _BLOB.fullmatch(path)
    if named:
        digest = str(Digest(f"{named[1]}:{named[2]}"))
        _keep(digest, entry.size, contents, content, lease)
        archive.blobs[path] = Stored(digest, entry.size)
    elif _DOCUMENT.fullmatch(path):
        archive.documents[path] = _document(path, entry.size, contents, archive)
    else:
        archive.blobs[path] = _spool(contents, content, lease)


def _document(path: str, size: int, contents: Iterator[bytes], archive: Archive) -> bytes:
    if size > MAX_DOCUMENT:
        raise InvalidArgument(f"archive: {path[:160]!r}: {size} bytes are more than the limit of {MAX_DOCUMENT}")
    if size + sum(map(len, archive.documents.values())) > MAX_DOCUMENTS:
        raise ResourceExhausted(f"archive: its documents are more than the limit of {MAX_DOCUMENTS} bytes")
    return b"".join(contents)


def _keep(digest: str, size: int, contents: Iterator[bytes], content: ContentStore, lease: Lease) -> None:
    lease.add(CONTENT, digest)
    with content.writer(Descriptor(media_type=OCI_LAYER, digest=digest, size=size)) as writer:
        if writer.present:
            return
        writer.restart()
        try:
            for piece in contents:
                writer.write(piece)
            writer.commit()
        except BaseException as error:
            writer.abort(error)
            raise


def _spool(contents: Iterator[bytes], content: ContentStore, lease: Lease) -> Stored:
    with content.spool() as spool:
        for piece in contents:
            spool.write(piece)
        lease.add(CONTENT, spool.digest)
        descriptor = spool.commit(OCI_LAYER)
    return Stored(descriptor.digest, descriptor.size)


def _entries(decoder: tar.Decoder, pieces: Iterator[bytes]) -> Iterator[tar.Entry]:
    while True:
        entry = decoder.next_entry()
        if isinstance(entry, tar.Entry):
            yield entry
        elif entry is tar.END:
            for _ in pieces:  # what a writer at the other end of a pipe still has to say
                pass
            return
        else:
            _feed(decoder, pieces)


def _contents(decoder: tar.Decoder, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The current member's bytes. Whoever does not read them to their end leaves them to be skipped."""
    while decoder.remaining:
        piece = decoder.take()
        if piece:
            yield bytes(piece)
        else:
            _feed(decoder, pieces)


def _feed(decoder: tar.Decoder, pieces: Iterator[bytes]) -> None:
    piece = next(pieces, b"")
    if piece:
        decoder.feed(piece)
    else:
        decoder.close()


def _plain(stream: Readable) -> Iterator[bytes]:
    """The tar's bytes, decompressed by what the first ones say."""
    head = b""
    while len(head) < 6 and (more := stream.read(CHUNK)):
        head += more
    if not head:
        raise InvalidArgument("archive: is empty")
    source = _Rejoined(head, stream)
    compression = compression_by_magic(head)
    if compression in ("", "gzip", "zstd"):
        return chunks(Counted(source), compression, Limits())
    return _others(source, compression)


def _others(source: _Rejoined, compression: str) -> Iterator[bytes]:
    """xz and bzip2, which people pack archives with by hand."""
    import bz2
    import lzma

    decompressor = lzma.LZMADecompressor(memlimit=256 << 20) if compression == "xz" else bz2.BZ2Decompressor()
    try:
        while not decompressor.eof:
            data = source.read(CHUNK) if decompressor.needs_input else b""
            if decompressor.needs_input and not data:
                raise InvalidArgument(f"archive: truncated {compression} data")
            yield decompressor.decompress(data, CHUNK)
    except (lzma.LZMAError, OSError) as error:
        raise InvalidArgument(f"archive: not valid {compression}: {str(error).lower()}") from error


class _Rejoined:
    """A stream with the bytes put back that were read to look at them."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._stream.read(size)
