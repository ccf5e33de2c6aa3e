"""Blobs: resumed, complete, and never more than promised."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from tests.distribution.conftest import CONFIG, Image, Sink, describe

from orlop.distribution.client import Registry as Client
from orlop.registry.faults import Action, Corrupt, Cut, Fault, Garbage, Hang, Header, IgnoreRange, Status, WrongLength
from orlop.registry.server import Registry
from orlop.spec.errors import DataLoss, InvalidArgument, NotFound, OrlopError, Unavailable
from orlop.spec.image import OCI_CONFIG
from orlop.spec.reference import Reference

BLOBS = r"GET .*/blobs/"


def ranges(registry: Registry) -> list[str]:
    return [seen.headers.get("range", "") for seen in registry.seen if "/blobs/" in seen.target]


def test_a_blob_arrives_with_its_progress(client: Client, reference: Reference, image: Image) -> None:
    sink = Sink()
    told: list[tuple[str, int, int, str]] = []
    client.fetch_blob(reference, image.blob, sink, lambda *state: told.append(state))
    assert sink.data == image.layer
    assert told[-1] == (image.blob.digest, len(image.layer), len(image.layer), "downloaded")
    assert [done for _, done, _, _ in told] == sorted(done for _, done, _, _ in told)


def test_a_partial_is_continued(registry: Registry, client: Client, reference: Reference, image: Image) -> None:
    sink = Sink(image.layer[:1000])
    client.fetch_blob(reference, image.blob, sink)
    assert sink.data == image.layer
    assert ranges(registry) == ["bytes=1000-"]


def test_a_whole_one_is_not_asked_for(registry: Registry, client: Client, reference: Reference, image: Image) -> None:
    client.fetch_blob(reference, image.blob, Sink(image.layer))
    assert ranges(registry) == []


def test_a_broken_download_goes_on_where_it_broke(
    registry: Registry, client: Client, reference: Reference, image: Image
) -> None:
    registry.faults.add(Fault(BLOBS, Cut(100_000), count=2))
    sink = Sink()
    states: list[str] = []
    client.fetch_blob(reference, image.blob, sink, lambda *state: states.append(state[3]))
    assert sink.data == image.layer
    assert ranges(registry) == ["", "bytes=100000-", "bytes=200000-"]
    assert states.count("retrying") == 2


@pytest.mark.parametrize(
    "action",
    [
        IgnoreRange(),
        Header("content-range", "bytes 0-299999/300000"),
        Header("content-range", "bytes 1000-1999/300000"),
        Header("content-range", "garbage"),
        Header("content-range", "bytes 1000-299999/300001"),
    ],
    ids=str,
)
def test_a_server_that_miscounts_ranges_still_gives_the_right_bytes(
    registry: Registry, client: Client, reference: Reference, image: Image, action: Action
) -> None:
    registry.faults.add(Fault(BLOBS, action))
    sink = Sink(image.layer[:1000])
    client.fetch_blob(reference, image.blob, sink)
    assert sink.data == image.layer


def test_a_server_that_refuses_the_range_is_asked_for_everything(
    registry: Registry, client: Client, reference: Reference, image: Image
) -> None:
    registry.faults.add(Fault(BLOBS, Status(416)))
    sink = Sink(image.layer[:1000])
    client.fetch_blob(reference, image.blob, sink)
    assert sink.data == image.layer
    assert ranges(registry) == ["bytes=1000-", ""]


@pytest.mark.parametrize("extra", [-1, 1, 100_000])
def test_a_blob_of_another_size_is_refused(
    registry: Registry, client: Client, reference: Reference, image: Image, extra: int
) -> None:
    registry.faults.add(Fault(BLOBS, WrongLength(extra), count=None))
    sink = Sink()
    with pytest.raises(DataLoss, match=f"the registry has {300_000 + extra} bytes, want 300000"):
        client.fetch_blob(reference, image.blob, sink)
    assert sink.offset == 0


@pytest.mark.parametrize("body", [b"x" * 300_001, b"x" * 10])
def test_a_blob_without_a_length_is_counted(
    registry: Registry, client: Client, reference: Reference, image: Image, body: bytes
) -> None:
    registry.faults.add(Fault(BLOBS, Garbage(b"HTTP/1.0 200 OK\r\n\r\n" + body), count=None))
    sink = Sink()
    with pytest.raises(OrlopError):
        client.fetch_blob(reference, image.blob, sink)
    assert sink.offset <= 300_000


def test_a_server_that_always_breaks_off_is_given_up(
    registry: Registry, client: Client, reference: Reference, image: Image
) -> None:
    registry.faults.add(Fault(BLOBS, Cut(10), count=None))
    with pytest.raises(Unavailable, match=r"blob [0-9a-f]{12}: registry .* after 40 of 300000 bytes"):
        client.fetch_blob(reference, image.blob, Sink())


def test_a_blob_that_stalls_is_asked_for_again(
    registry: Registry, make_client: Callable[..., Client], reference: Reference, image: Image
) -> None:
    from orlop.distribution.transport import Timeouts

    registry.faults.add(Fault(BLOBS, Hang(1)))
    sink = Sink()
    make_client(timeouts=Timeouts(connect=0.5, read=0.3)).fetch_blob(reference, image.blob, sink)
    assert sink.data == image.layer


def test_a_missing_blob(client: Client, reference: Reference) -> None:
    missing = describe(b"nowhere", OCI_CONFIG)
    with pytest.raises(NotFound, match=f"blob {missing.digest} not found in registry"):
        client.fetch_blob(reference, missing, Sink())


def test_an_error_of_the_writer_comes_through(client: Client, reference: Reference, image: Image) -> None:
    class Full(Sink):
        def write(self, data: bytes) -> None:
            raise InvalidArgument("the writer's own")

    with pytest.raises(InvalidArgument, match="the writer's own"):
        client.fetch_blob(reference, image.blob, Full())


def test_a_small_blob_in_memory_is_verified(registry: Registry, client: Client, reference: Reference) -> None:
    descriptor = describe(CONFIG, OCI_CONFIG)
    assert client.read_blob(reference, descriptor) == CONFIG
    registry.faults.add(Fault(BLOBS, Corrupt()))
    with pytest.raises(DataLoss, match="its bytes have another digest"):
        client.read_blob(reference, descriptor)
    with pytest.raises(InvalidArgument, match="bytes are more than"):
        client.read_blob(reference, msgspec.structs.replace(descriptor, size=1 << 40))


def test_content_coding_is_never_undone(registry: Registry, client: Client, reference: Reference, image: Image) -> None:
    registry.faults.add(Fault(BLOBS, Header("content-encoding", "gzip")))
    sink = Sink()
    client.fetch_blob(reference, image.blob, sink)
    assert sink.data == image.layer
