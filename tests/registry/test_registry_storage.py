"""One suite for every storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop.registry.storage import DirectoryStorage, MemoryStorage, Storage
from orlop.spec.digest import Digest


@pytest.fixture(params=["memory", "directory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return MemoryStorage() if request.param == "memory" else DirectoryStorage(tmp_path)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_content_is_kept_under_its_digest(storage: Storage, algorithm: str) -> None:
    digest = Digest.of(b"hello world", algorithm)
    upload = storage.upload()
    upload.write(b"hello ")
    upload.write(memoryview(b"world"))
    assert upload.offset == 11
    assert storage.size(digest) is None
    assert upload.commit(digest)
    assert storage.size(digest) == 11
    content = storage.open(digest)
    assert content is not None
    with content:
        assert content.read() == b"hello world"
    assert storage.delete(digest)
    assert not storage.delete(digest)
    assert storage.open(digest) is None


def test_content_that_is_not_its_digest_is_dropped(storage: Storage) -> None:
    digest = Digest.of(b"other")
    upload = storage.upload()
    upload.write(b"this")
    assert not upload.commit(digest)
    assert storage.size(digest) is None


def test_an_aborted_upload_leaves_nothing(tmp_path: Path) -> None:
    upload = DirectoryStorage(tmp_path).upload()
    upload.write(b"x")
    upload.abort()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_records_are_listed_one_level_deep_and_sorted(storage: Storage) -> None:
    for key in ("a/_tags/b", "a/_tags/B", "a/_tags/10", "a/b/_tags/z"):
        storage.put(key, key.encode())
    assert storage.names("a/_tags") == ["10", "B", "b"]
    assert storage.names("nothing") == []
    assert storage.get("a/_tags/b") == b"a/_tags/b"
    assert storage.get("a/_tags") is None
    assert storage.remove("a/_tags/b")
    assert not storage.remove("a/_tags/b")
