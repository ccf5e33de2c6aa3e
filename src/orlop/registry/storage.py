"""Where a registry keeps things: blobs by digest, and small records by key.

A *blob* is content, written through an `Upload` and named by its digest. A *record* is a short value under a path-like
key, such as `library/redis/_tags/latest`; repository names cannot hold a component that begins with an underscore, so
keys of different repositories never meet. Both implementations pass the same tests.
"""

from __future__ import annotations

import io
import os
import threading
import uuid
from pathlib import Path
from typing import BinaryIO, Protocol

from orlop.spec.digest import Digest


class Upload(Protocol):
    """Content on its way in. After `commit` or `abort` it is used no more."""

    offset: int

    def write(self, data: bytes | memoryview) -> None: ...

    def commit(self, digest: Digest) -> bool:
        """Keep the content under `digest`; False (and the content is gone) when it is not what the digest says."""

    def abort(self) -> None: ...


class Storage(Protocol):
    """Thread-safe. Missing things are None or False, never an exception."""

    def size(self, digest: Digest) -> int | None: ...

    def open(self, digest: Digest) -> BinaryIO | None: ...

    def delete(self, digest: Digest) -> bool: ...

    def upload(self) -> Upload: ...

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, value: bytes) -> None: ...

    def remove(self, key: str) -> bool: ...

    def names(self, prefix: str) -> list[str]:
        """Last components of the records directly beneath `prefix`, sorted by their bytes."""


class MemoryStorage:
    """Everything in dictionaries; gone with the process."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._records: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def size(self, digest: Digest) -> int | None:
        blob = self._blobs.get(digest)
        return None if blob is None else len(blob)

    def open(self, digest: Digest) -> BinaryIO | None:
        blob = self._blobs.get(digest)
        return None if blob is None else io.BytesIO(blob)

    def delete(self, digest: Digest) -> bool:
        return self._blobs.pop(digest, None) is not None

    def upload(self) -> Upload:
        return _MemoryUpload(self._blobs)

    def get(self, key: str) -> bytes | None:
        return self._records.get(key)

    def put(self, key: str, value: bytes) -> None:
        with self._lock:
            self._records[key] = value

    def remove(self, key: str) -> bool:
        with self._lock:
            return self._records.pop(key, None) is not None

    def names(self, prefix: str) -> list[str]:
        with self._lock:
            keys = [key[len(prefix) + 1 :] for key in self._records if key.startswith(prefix + "/")]
        return sorted(key for key in keys if "/" not in key)


class _MemoryUpload:
    def __init__(self, blobs: dict[str, bytes]) -> None:
        self._blobs = blobs
        self._buffer = io.BytesIO()
        self.offset = 0

    def write(self, data: bytes | memoryview) -> None:
        self.offset += self._buffer.write(data)

    def commit(self, digest: Digest) -> bool:
        data = self._buffer.getvalue()
        right = Digest.of(data, digest.algorithm) == digest
        if right:
            self._blobs[digest] = data
        return right

    def abort(self) -> None:
        self._buffer.close()


class DirectoryStorage:
    """Blobs as an OCI image layout holds them (`blobs/sha256/<hex>`), records as files beneath `repositories/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("blobs", "repositories", "uploads"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        try:
            return self.blob(digest).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, digest: Digest) -> BinaryIO | None:
        try:
            return self.blob(digest).open("rb")
        except FileNotFoundError:
            return None

    def delete(self, digest: Digest) -> bool:
        return _unlink(self.blob(digest))

    def upload(self) -> Upload:
        return _FileUpload(self, self.root / "uploads" / uuid.uuid4().hex)

    def _record(self, key: str) -> Path:
        return self.root / "repositories" / key

    def get(self, key: str) -> bytes | None:
        try:
            return self._record(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def put(self, key: str, value: bytes) -> None:
        target = self._record(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: a reader sees the old record or the new one.
        aside = self.root / "uploads" / uuid.uuid4().hex
        aside.write_bytes(value)
        aside.rename(target)

    def remove(self, key: str) -> bool:
        return _unlink(self._record(key))

    def names(self, prefix: str) -> list[str]:
        try:
            with os.scandir(self._record(prefix)) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []


class _FileUpload:
    """Hashes as it writes, for the usual algorithm; another one is read back at the end."""

    def __init__(self, storage: DirectoryStorage, path: Path) -> None:
        self._storage = storage
        self._path = path
        self._file = path.open("wb", buffering=0)
        self._hash = Digest("sha256:" + "0" * 64).hasher()
        self.offset = 0

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        self._hash.update(rest)
        self.offset += len(rest)
        while rest:
            rest = rest[self._file.write(rest) :]

    def commit(self, digest: Digest) -> bool:
        self._file.close()
        if self._actual(digest.algorithm) != digest.hex:
            _unlink(self._path)
            return False
        target = self._storage.blob(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path.rename(target)
        return True

    def _actual(self, algorithm: str) -> str:
        if algorithm == "sha256":
            return self._hash.hexdigest()
        import hashlib

        with self._path.open("rb") as content:
            return hashlib.file_digest(content, algorithm).hexdigest()

    def abort(self) -> None:
        self._file.close()
        _unlink(self._path)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
