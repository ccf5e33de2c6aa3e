"""Blobs on their way into the content store.

A `BlobWriter` is the one writer of its blob: it holds the lock on `ingest/<alg>-<hex>`. Bytes are hashed as they
come, and `commit` renames the file into `blobs/` only when size and digest are right and the bytes are durable. If
the writer ends before that, the partial file stays for whoever resumes it.

While it writes, another thread may read what has arrived, through `follow`: a layer is unpacked as it downloads.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from orlop.spec.digest import Digest
from orlop.spec.errors import Aborted, DataLoss, FailedPrecondition, InvalidArgument, OrlopError, from_os, os_errors
from orlop.spec.image import Descriptor
from orlop.sys.files import sync_directory, write_all
from orlop.sys.lock import lock_file

_CHUNK = 1 << 20


class BlobWriter:
    """Writes one blob. Get one from `ContentStore.writer`; leave it through `commit`, `close` or `abort`.

    As a context manager it closes itself, which keeps what has arrived. One thread writes; `follow` may be read by
    others, and any thread may `close` or `abort`: the one that writes then fails with `Aborted`.
    """

    def __init__(self, root: Path, descriptor: Descriptor, fd: int, check: Callable[[], None] | None = None) -> None:
        present = fd < 0
        self.descriptor = descriptor
        self.digest = Digest(descriptor.digest)
        self.present = present  # the blob is in the store: nothing is to be written
        self.offset = 0  # bytes that have arrived
        self.resumed = 0  # of these, how many an earlier writer left
        self._root = root
        self._fd = fd
        self._check = check
        self._file = threading.Lock()  # whoever uses the descriptor: a closed number may be another file's next
        self._hash = self.digest.hasher()
        self._change = threading.Condition()
        self._arrived = 0  # what followers may read; more than `offset` after a restart
        self._stored = present
        self._done = present
        self._watch: Callable[[int], object] | None = None
        self.failure: BaseException | None = None  # why it ended without a commit: what followers raise
        if not present:
            self._adopt()
        else:
            self.offset = self._arrived = descriptor.size

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def write(self, data: bytes | memoryview) -> None:
        """Append. More bytes than the descriptor promises are `DataLoss`; a full disk is `ResourceExhausted`."""
        if self.present:
            raise FailedPrecondition(f"blob {self.digest}: is in the store already")
        if self.offset + len(data) > self.descriptor.size:
            raise DataLoss(f"blob {self.digest}: more bytes than the {self.descriptor.size} of its descriptor")
        if self._check is not None:
            self._check()
        with self._file:
            try:
                write_all(self._open_fd(), data)
            except OSError as error:
                self._cut_back()
                raise from_os(error, f"write blob {self.digest}") from error
        self._hash.update(data)
        with self._change:
            self.offset += len(data)
            self._arrived = max(self._arrived, self.offset)
            self._change.notify_all()
        if self._watch is not None:
            self._watch(self.offset)

    def watch(self, watcher: Callable[[int], object]) -> None:
        """Have `watcher` told the offset now and after every write."""
        self._watch = watcher
        watcher(self.offset)

    def restart(self) -> None:
        """Begin again at offset 0, as when a server ignores the range that it was asked for.

        The file is overwritten, not cut: followers go on with the bytes that they have been promised. Should those
        have been wrong ones, then the layer that was made of them fails its own digest.
        """
        if self.present or not self.offset:
            return
        with self._file, os_errors("rewind blob"):
            os.lseek(self._open_fd(), 0, os.SEEK_SET)
        self.offset = self.resumed = 0
        self._hash = self.digest.hasher()

    def commit(self) -> None:
        """Check size and digest, make the bytes durable, and give the blob its name. A blob whose bytes are wrong is
        removed: resuming it could never end well. One that is only too short is kept."""
        if self._stored:
            return
        if self.offset != self.descriptor.size:
            raise self._failed(
                DataLoss(f"blob {self.digest}: truncated: {self.offset} of {self.descriptor.size} bytes arrived")
            )
        actual = f"{self.digest.algorithm}:{self._hash.hexdigest()}"
        if actual != self.digest:
            error = DataLoss(f"blob {self.digest}: the bytes that arrived have digest {actual}")
            self.abort(error)
            raise error
        with self._file, os_errors(f"store blob {self.digest}"):
            _publish(self._open_fd(), _ingest_path(self._root, self.digest), _blob_path(self._root, self.digest))
        self._stored = True
        self._finish(None)

    def close(self, error: BaseException | None = None) -> None:
        """End without a commit; what has arrived is kept. Followers fail with `error`. After a commit this does
        nothing."""
        if not self._arrived:
            self._remove_partial()
        if not self._done:
            self._finish(error or Aborted(f"blob {self.digest}: the download was given up"))
        self._release()

    def abort(self, error: BaseException | None = None) -> None:
        """End without a commit and remove the partial."""
        self._remove_partial()
        self.close(error)

    def follow(self) -> Follower:
        """A readable that gives the blob's bytes from its start, waiting for those that have not arrived."""
        with self._file, os_errors(f"read blob {self.digest}"):
            path = _blob_path(self._root, self.digest) if self._stored else f"/proc/self/fd/{self._open_fd()}"
            return Follower(self, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def _wait_beyond(self, position: int) -> int:
        """Block until more than `position` bytes are there; returns how many, or 0 at the end of the blob."""
        with self._change:
            while self._arrived <= position and not self._done:
                self._change.wait()
            if self.failure is not None:
                raise self.failure
            return max(self._arrived - position, 0)

    def _finish(self, failure: BaseException | None) -> None:
        with self._change:
            self._done = True
            self.failure = failure
            self._change.notify_all()

    def _failed(self, error: OrlopError) -> OrlopError:
        self._finish(error)
        return error

    def _remove_partial(self) -> None:
        with self._file:
            if not self._stored and self._fd >= 0:
                _ingest_path(self._root, self.digest).unlink(missing_ok=True)

    def _release(self) -> None:
        with self._file:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise Aborted(f"blob {self.digest}: the download was given up")
        return self._fd

    def _adopt(self) -> None:
        """Take over what an earlier writer left: hash it, so that `write` can go on at its end."""
        with os_errors(f"resume blob {self.digest}"):
            if os.fstat(self._fd).st_size > self.descriptor.size:
                os.ftruncate(self._fd, 0)
            while data := os.read(self._fd, _CHUNK):
                self._hash.update(data)
                self.offset += len(data)
        self.resumed = self._arrived = self.offset

    def _cut_back(self) -> None:
        """Drop the part of a failed write that reached the file: the hash does not know it."""
        try:
            os.ftruncate(self._fd, self._arrived)
            os.lseek(self._fd, self.offset, os.SEEK_SET)
        except OSError:  # the error of the write is the one to report; the next `_adopt` reads what is there
            pass


class Follower(io.RawIOBase):
    """Reads a blob behind its writer, from the start. A writer that fails makes `read` raise its error."""

    def __init__(self, writer: BlobWriter, fd: int) -> None:
        self._writer = writer
        self._fd = fd
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        available = self._writer._wait_beyond(self._position)
        if not available or not view:
            return 0
        count = os.preadv(self._fd, [view[:available]], self._position)
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


class Spool:
    """A blob whose digest its bytes decide: written to a file without a name, then put in the store by `commit`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hash = hashlib.sha256()
        self.size = 0
        with os_errors("spool blob"):
            self._path = root / "ingest" / f"spool-{os.getpid()}-{threading.get_ident()}-{id(self)}"
            self._fd = lock_file(self._path)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, data: bytes | memoryview) -> None:
        with os_errors("write blob"):
            write_all(self._descriptor(), data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def digest(self) -> Digest:
        """The digest of what has been written so far."""
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def commit(self, media_type: str) -> Descriptor:
        """Put the blob in the store and return its descriptor."""
        descriptor = Descriptor(media_type=media_type, digest=str(self.digest), size=self.size)
        with os_errors("store blob"):
            _publish(self._descriptor(), self._path, _blob_path(self._root, self.digest))
        os.close(self._descriptor())
        self._fd = None
        return descriptor

    def abort(self) -> None:
        """Remove what has been written. After a commit this does nothing."""
        if self._fd is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def _descriptor(self) -> int:
        if self._fd is None:
            raise FailedPrecondition("spool is closed")
        return self._fd


def open_writer(root: Path, descriptor: Descriptor, check: Callable[[], None] | None) -> BlobWriter:
    """The writer for `descriptor`, once no other one is at it."""
    digest = Digest(descriptor.digest)
    blob, partial = _blob_path(root, digest), _ingest_path(root, digest)
    if blob.exists():
        return _present(root, descriptor, blob)
    with os_errors("open blob for writing"):
        fd = lock_file(partial, check)
    assert fd is not None
    try:
        if not blob.exists():
            return BlobWriter(root, descriptor, fd, check)
        partial.unlink(missing_ok=True)  # the one that held the lock has committed the blob
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return _present(root, descriptor, blob)


def _present(root: Path, descriptor: Descriptor, blob: Path) -> BlobWriter:
    size = blob.stat().st_size
    if size != descriptor.size:
        raise InvalidArgument(f"blob {descriptor.digest}: has {size} bytes, but its descriptor says {descriptor.size}")
    return BlobWriter(root, descriptor, -1)


def _publish(fd: int, partial: Path, blob: Path) -> None:
    """Data first, then the name: a power cut must never leave a name with other bytes behind it."""
    os.fdatasync(fd)
    os.fchmod(fd, 0o644)
    blob.parent.mkdir(mode=0o755, exist_ok=True)
    os.rename(partial, blob)
    sync_directory(blob.parent)


def _blob_path(root: Path, digest: Digest) -> Path:
    return root / "blobs" / digest.algorithm / digest.hex


def _ingest_path(root: Path, digest: Digest) -> Path:
    return root / "ingest" / f"{digest.algorithm}-{digest.hex}"
