"""The content store: blobs by digest, in an OCI image layout (image-spec, image-layout.md) that other tools can read.

    <root>/oci-layout           {"imageLayoutVersion": "1.0.0"}
    <root>/index.json           what the image table says, see `content.layout`
    <root>/blobs/<alg>/<hex>    whole blobs, only ever put there by rename, never changed
    <root>/ingest/<alg>-<hex>   blobs on their way in; locked while someone writes, kept for resuming

Several processes work on one store at once. A blob either is there and whole or is not there. Nothing is made before
the first write, and nothing is held open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from orlop.spec.digest import Digest
from orlop.spec.errors import DataLoss, InvalidArgument, NotFound, ResourceExhausted, from_os, os_errors
from orlop.spec.image import MAX_DOCUMENT, Descriptor
from orlop.sys.files import replace_file
from orlop.sys.lock import try_lock

if TYPE_CHECKING:  # `run` only looks at blobs, if at that
    from orlop.content.ingest import BlobWriter, Spool

LAYOUT_VERSION = b'{"imageLayoutVersion":"1.0.0"}'
EMPTY_INDEX = b'{"schemaVersion":2,"manifests":[]}'


class Stored(msgspec.Struct, frozen=True):
    """One blob in the store: its size in bytes and when it came (seconds since the epoch)."""

    digest: str
    size: int
    modified: float


class ContentStore:
    """Blobs under `root`. Cheap to make: it touches no file before it is asked for one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the blob is or would be."""
        checked = Digest(digest)
        return self.root / "blobs" / checked.algorithm / checked.hex

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """Bytes of a blob; `NotFound` if it is not there."""
        try:
            return self.path(digest).stat().st_size
        except OSError as error:
            raise _missing(error, digest) from error

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading, from its start. What is read is not checked again."""
        try:
            return open(self.path(digest), "rb", buffering=0)
        except OSError as error:
            raise _missing(error, digest) from error

    def read(self, digest: str, limit: int = MAX_DOCUMENT) -> bytes:
        """A small blob whole, checked against its digest. More than `limit` bytes is `ResourceExhausted`."""
        with self.open(digest) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise ResourceExhausted(f"blob {digest}: {size} bytes are more than the limit of {limit}")
            data = file.read()
        if Digest.of(data, Digest(digest).algorithm) != digest:
            raise DataLoss(f"blob {digest}: the stored bytes do not have this digest; remove it and pull again")
        return data

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Store a small blob and return its descriptor."""
        descriptor = Descriptor(media_type=media_type, digest=str(Digest.of(data)), size=len(data))
        if not self.has(descriptor.digest):
            with self.writer(descriptor) as writer:
                writer.restart()
                writer.write(data)
                writer.commit()
        return descriptor

    def writer(self, descriptor: Descriptor, check: Callable[[], None] | None = None) -> BlobWriter:
        """Begin or resume the blob that `descriptor` names.

        If another thread or process is writing the same blob, this waits for it; `check` is called meanwhile and may
        raise to give up. Where the blob is in the store already, the writer is `present`: its offset is the size and
        there is nothing to do.
        """
        from orlop.content.ingest import open_writer

        self.prepare()
        return open_writer(self.root, descriptor, check)

    def spool(self) -> Spool:
        """Begin a blob whose digest is known only at its end."""
        from orlop.content.ingest import Spool

        self.prepare()
        return Spool(self.root)

    def delete(self, digest: str) -> int:
        """Remove a blob; returns the bytes that were freed, 0 if it was not there."""
        path = self.path(digest)
        with os_errors("remove blob"):
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return 0
        return size

    def walk(self) -> Iterator[Stored]:
        """Every whole blob."""
        for directory in _entries(self.root / "blobs"):
            for entry in _entries(Path(directory.path)):
                try:
                    digest = Digest(f"{directory.name}:{entry.name}")
                    info = entry.stat(follow_symlinks=False)
                except (OSError, InvalidArgument):  # gone meanwhile, or a stray file that is not ours to judge
                    continue
                yield Stored(digest, info.st_size, info.st_mtime)

    def sweep_ingest(self, keep: Callable[[str, float], bool]) -> int:
        """Remove half-arrived blobs that nobody is writing and `keep(digest, mtime)` does not want; returns bytes."""
        freed = 0
        for entry in _entries(self.root / "ingest"):
            if entry.name.startswith("."):  # a lock, not a blob
                continue
            digest = entry.name.replace("-", ":", 1)
            try:
                fd = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                info = os.fstat(fd)
                if try_lock(fd) and not keep(digest, info.st_mtime):
                    os.unlink(entry.path)
                    freed += info.st_size
            except FileNotFoundError:
                pass
            finally:
                os.close(fd)
        return freed

    def prepare(self) -> None:
        """Make the layout's files and directories, if they are not there."""
        if (self.root / "oci-layout").exists():
            return
        with os_errors("make content store"):
            for directory in (self.root / "blobs" / "sha256", self.root / "ingest"):
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not (self.root / "index.json").exists():
                replace_file(self.root / "index.json", EMPTY_INDEX)
            replace_file(self.root / "oci-layout", LAYOUT_VERSION)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _missing(error: OSError, digest: str) -> Exception:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"blob {digest}: not in the content store")
    return from_os(error, "open blob")
