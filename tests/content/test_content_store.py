"""The content store: whole blobs or none, resuming, sharing between writers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.content.store import ContentStore
from orlop.spec.digest import Digest
from orlop.spec.errors import DataLoss, InvalidArgument, NotFound, ResourceExhausted
from orlop.spec.image import OCI_LAYER, Descriptor

DATA = b"orlop" * 1000


def described(data: bytes, size: int | None = None) -> Descriptor:
    return Descriptor(media_type=OCI_LAYER, digest=Digest.of(data), size=len(data) if size is None else size)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def test_making_a_store_touches_nothing(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "content")
    assert not store.has(Digest.of(b""))
    assert list(store.walk()) == []
    assert list(tmp_path.iterdir()) == []


def test_written_blob_is_there_whole_after_commit_only(store: ContentStore) -> None:
    wanted = described(DATA)
    with store.writer(wanted) as writer:
        writer.write(DATA)
        assert not store.has(wanted.digest)
        writer.commit()
    assert store.read(wanted.digest) == DATA
    assert [blob.digest for blob in store.walk()] == [wanted.digest]
    assert os.listdir(store.root / "ingest") == []


def test_put_twice_is_one_blob(store: ContentStore) -> None:
    assert store.put(b"{}", "application/json") == store.put(b"{}", "application/json")
    assert len(list(store.walk())) == 1


def test_interrupted_blob_resumes_where_it_stopped(store: ContentStore) -> None:
    wanted = described(DATA)
    with store.writer(wanted) as writer:
        writer.write(DATA[:777])
    with store.writer(wanted) as writer:
        assert writer.offset == writer.resumed == 777
        writer.write(DATA[777:])
        writer.commit()
    assert store.read(wanted.digest) == DATA


def test_restart_overwrites_a_bad_partial(store: ContentStore) -> None:
    wanted = described(DATA)
    with store.writer(wanted) as writer:
        writer.write(b"garbage")
    with store.writer(wanted) as writer:
        writer.restart()
        assert writer.offset == 0
        writer.write(DATA)
        writer.commit()
    assert store.read(wanted.digest) == DATA


def test_truncated_blob_is_refused_and_kept_for_resuming(store: ContentStore) -> None:
    wanted = described(DATA)
    writer = store.writer(wanted)
    writer.write(DATA[:10])
    with pytest.raises(DataLoss, match="truncated: 10 of 5000 bytes"):
        writer.commit()
    writer.close()
    assert not store.has(wanted.digest)
    with store.writer(wanted) as again:
        assert again.offset == 10


def test_over_long_blob_is_refused_at_the_first_byte_too_many(store: ContentStore) -> None:
    with store.writer(described(DATA, size=100)) as writer:
        with pytest.raises(DataLoss, match="more bytes than the 100"):
            writer.write(DATA)


def test_blob_with_wrong_digest_is_removed(store: ContentStore) -> None:
    wanted = described(DATA)
    with store.writer(wanted) as writer:
        writer.write(DATA[::-1])
        with pytest.raises(DataLoss, match="the bytes that arrived have digest"):
            writer.commit()
    assert os.listdir(store.root / "ingest") == []


def test_size_that_disagrees_with_the_stored_blob_is_refused(store: ContentStore) -> None:
    store.put(DATA, OCI_LAYER)
    with pytest.raises(InvalidArgument, match="has 5000 bytes, but its descriptor says 4"):
        store.writer(described(DATA, size=4))


def test_stored_bytes_that_rotted_are_noticed(store: ContentStore) -> None:
    blob = store.put(DATA, OCI_LAYER)
    store.path(blob.digest).write_bytes(DATA[1:] + b"x")
    with pytest.raises(DataLoss):
        store.read(blob.digest)


def test_big_document_is_refused(store: ContentStore) -> None:
    blob = store.put(DATA, OCI_LAYER)
    with pytest.raises(ResourceExhausted):
        store.read(blob.digest, limit=100)


def test_missing_blob_is_not_found(store: ContentStore) -> None:
    with pytest.raises(NotFound, match="not in the content store"):
        store.read(Digest.of(b"?"))
    assert store.delete(Digest.of(b"?")) == 0


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "../x:y", "md5:00", "sha256:" + "A" * 64])
def test_digest_that_is_a_path_is_refused(store: ContentStore, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        store.path(digest)


def test_follower_reads_while_the_blob_arrives(store: ContentStore) -> None:
    wanted = described(DATA)
    with store.writer(wanted) as writer:
        follower = writer.follow()
        read: list[bytes] = []
        thread = threading.Thread(target=lambda: read.append(follower.read()))
        thread.start()
        for start in range(0, len(DATA), 100):
            writer.write(DATA[start : start + 100])
        writer.commit()
        thread.join(10)
    assert read == [DATA]


def test_follower_fails_with_its_writer(store: ContentStore) -> None:
    writer = store.writer(described(DATA))
    follower = writer.follow()
    writer.write(DATA[:5])
    assert follower.read(100) == DATA[:5]
    writer.close(ResourceExhausted("no space"))
    with pytest.raises(ResourceExhausted, match="no space"):
        follower.read(1)


def test_follower_of_a_restarted_writer_gets_every_byte_once(store: ContentStore) -> None:
    with store.writer(described(DATA)) as writer:
        writer.write(DATA[:3000])
        follower = writer.follow()
        head = follower.read(2500)
        writer.restart()
        writer.write(DATA[:1000])
        head += follower.read(400)
        writer.write(DATA[1000:])
        writer.commit()
        assert head + follower.read() == DATA


def test_follower_of_a_present_blob_reads_the_store(store: ContentStore) -> None:
    store.put(DATA, OCI_LAYER)
    writer = store.writer(described(DATA))
    assert writer.present
    assert writer.offset == len(DATA)
    assert writer.follow().read() == DATA
    writer.commit()


def test_second_writer_waits_and_finds_the_blob(store: ContentStore) -> None:
    wanted = described(DATA)
    first = store.writer(wanted)
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(store.writer(wanted).present))
    thread.start()
    first.write(DATA)
    thread.join(0.05)
    assert not seen
    first.commit()
    first.close()
    thread.join(10)
    assert seen == [True]


def test_waiting_writer_can_be_told_to_give_up(store: ContentStore) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    with store.writer(described(DATA)), pytest.raises(KeyboardInterrupt):
        store.writer(described(DATA), check=give_up)


def test_killed_process_leaves_a_partial_that_the_next_one_takes_over(store: ContentStore) -> None:
    wanted = described(DATA)
    script = (
        "import os, sys; from pathlib import Path; from orlop.content.store import ContentStore;"
        "from orlop.spec.image import Descriptor, OCI_LAYER;"
        f"w = ContentStore(Path(sys.argv[1])).writer(Descriptor(media_type=OCI_LAYER, digest={str(wanted.digest)!r},"
        "size=5000)); w.write(b'orlop' * 300); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(store.root)]).returncode == -9
    with store.writer(wanted) as writer:
        assert writer.offset == 1500


def test_spool_names_the_blob_by_what_was_written(store: ContentStore) -> None:
    with store.spool() as spool:
        spool.write(DATA)
        blob = spool.commit(OCI_LAYER)
    assert blob == described(DATA)
    assert store.read(blob.digest) == DATA
    with store.spool() as spool:
        spool.write(b"dropped")
    assert os.listdir(store.root / "ingest") == []


def test_sweep_spares_partials_under_way_and_wanted_ones(store: ContentStore) -> None:
    busy, idle, wanted = (described(text) for text in (b"busy", b"idle", b"wanted"))
    for descriptor in (idle, wanted):
        with store.writer(descriptor) as writer:
            writer.write(b"id")
    with store.writer(busy):
        assert store.sweep_ingest(lambda digest, modified: digest == wanted.digest) == 2
        assert len(os.listdir(store.root / "ingest")) == 2


@pytest.mark.root
def test_full_disk_is_one_clear_error_and_the_store_stays_valid(small_tmpfs: Path) -> None:
    store = ContentStore(small_tmpfs / "content")
    kept = store.put(b"kept", OCI_LAYER)
    data = os.urandom(3 << 20)
    with store.writer(described(data)) as writer, pytest.raises(ResourceExhausted, match="no space left on device"):
        writer.write(data)
    assert [blob.digest for blob in store.walk()] == [kept.digest]
    with store.writer(described(data)) as writer:
        assert writer.offset < len(data)
        writer.abort()
    assert store.put(b"more", OCI_LAYER).size == 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 8))
def test_any_split_into_writes_and_sessions_gives_the_same_blob(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], cut: int
) -> None:
    store = ContentStore(tmp_path_factory.mktemp("store"))
    wanted = described(b"".join(parts))
    for session in (parts[:cut], parts[cut:]):
        with store.writer(wanted) as writer:
            for part in session:
                writer.write(part)
            if session is not parts and writer.offset == wanted.size:
                writer.commit()
                break
    assert store.read(wanted.digest) == b"".join(parts)
