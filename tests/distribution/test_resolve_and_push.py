"""Manifests there and back; blobs pushed whole, in pieces, mounted and not at all."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import pytest
from tests.distribution.conftest import Image, Sink, describe

from orlop.distribution.client import Registry as Client
from orlop.registry.faults import Cut, Fault, Garbage, Header, Status, WrongDigest
from orlop.registry.server import Registry
from orlop.spec.digest import Digest
from orlop.spec.errors import DataLoss, InvalidArgument, NotFound, OrlopError, ResourceExhausted, Unavailable
from orlop.spec.image import DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Index
from orlop.spec.reference import Reference, parse_reference


def methods(registry: Registry) -> list[str]:
    return [seen.method for seen in registry.seen]


def test_a_tag_and_a_digest_give_the_same(client: Client, reference: Reference, image: Image) -> None:
    by_tag = client.resolve(reference)
    assert by_tag == (image.descriptor, image.manifest)
    by_digest = client.resolve(parse_reference(f"{reference.name}@{image.descriptor.digest}"))
    assert by_digest == by_tag
    assert client.fetch_manifest(reference, by_tag.descriptor) == image.manifest
    assert client.head(reference) == by_tag.descriptor


def test_a_digest_in_sha512(client: Client, reference: Reference, image: Image) -> None:
    named = parse_reference(f"{reference.name}@{Digest.of(image.manifest, 'sha512')}")
    client.push_manifest(named, image.manifest, OCI_MANIFEST)
    assert client.resolve(named).descriptor.digest == named.digest


def test_bytes_that_are_not_the_digest_asked_for(
    registry: Registry, client: Client, reference: Reference, image: Image
) -> None:
    other = image.manifest.replace(b"{", b"{ ", 1)
    answer = b"HTTP/1.0 200 OK\r\ncontent-type: " + OCI_MANIFEST.encode() + b"\r\n\r\n" + other
    registry.faults.add(Fault("manifests/sha256", Garbage(answer), count=None))
    with pytest.raises(DataLoss, match=f"its bytes have digest {Digest.of(other)}"):
        client.fetch_manifest(reference, image.descriptor)


@pytest.mark.parametrize("content_type", ["", "application/json", "application/octet-stream", "text/plain; x=y"])
def test_a_vague_content_type_lets_the_document_speak(
    registry: Registry, client: Client, reference: Reference, image: Image, content_type: str
) -> None:
    registry.faults.add(Fault("manifests/", Header("content-type", content_type), count=None))
    assert client.resolve(reference).descriptor == image.descriptor
    assert client.head(reference) == image.descriptor


def test_a_registry_that_claims_no_digest(registry: Registry, client: Client, reference: Reference) -> None:
    registry.faults.add(Fault("manifests/", WrongDigest(""), count=None))
    assert client.head(reference) == client.resolve(reference).descriptor


def test_an_index_after_its_manifests(client: Client, reference: Reference, image: Image) -> None:
    index = msgspec.json.encode(Index(schema_version=2, media_type=OCI_INDEX, manifests=(image.descriptor,)))
    named = msgspec.structs.replace(reference, tag="all")
    assert client.push_manifest(named, index, OCI_INDEX) == describe(index, OCI_INDEX)
    assert client.resolve(named) == (describe(index, OCI_INDEX), index)


def test_what_is_no_manifest_is_not_pushed(client: Client, reference: Reference, image: Image) -> None:
    with pytest.raises(InvalidArgument):
        client.push_manifest(reference, b"{}", OCI_MANIFEST)
    with pytest.raises(InvalidArgument, match="served as"):
        client.push_manifest(reference, image.manifest, DOCKER_MANIFEST)


def test_a_registry_that_stores_other_bytes(
    registry: Registry, client: Client, reference: Reference, image: Image
) -> None:
    registry.faults.add(Fault("PUT .*manifests/", WrongDigest()))
    with pytest.raises(DataLoss, match="the registry stored it as 'sha256:000"):
        client.push_manifest(reference, image.manifest, OCI_MANIFEST)


@pytest.mark.parametrize("chunk", [0, 1, 7, 10, 4096])
def test_a_blob_is_pushed_whole_or_in_pieces(registry: Registry, client: Client, chunk: int) -> None:
    named = parse_reference(f"{registry.address}/a:1")
    blob = describe(b"0123456789", OCI_LAYER)
    told: list[tuple[int, str]] = []
    state = client.push_blob(
        named,
        blob,
        lambda: io.BytesIO(b"0123456789"),
        chunk=chunk,
        progress=lambda _, done, __, state: told.append((done, state)),
    )
    assert (state, told[-1]) == ("pushed", (10, "pushed"))
    assert methods(registry).count("PATCH") == (-(-10 // chunk) if chunk else 0)
    sink = Sink()
    client.fetch_blob(named, blob, sink)
    assert sink.data == b"0123456789"
    assert client.push_blob(named, blob, lambda: io.BytesIO(b"")) == "exists"


def test_an_empty_blob(registry: Registry, client: Client) -> None:
    named, blob = parse_reference(f"{registry.address}/a:1"), describe(b"", OCI_LAYER)
    assert client.push_blob(named, blob, lambda: io.BytesIO(b"")) == "pushed"
    client.fetch_blob(named, blob, Sink())
    assert client.read_blob(named, blob) == b""


def test_a_blob_that_is_there_costs_no_connection(registry: Registry, client: Client) -> None:
    named, data = parse_reference(f"{registry.address}/a:1"), bytes(200_000)
    for state in ("pushed", "exists", "exists"):
        assert client.push_blob(named, describe(data, OCI_LAYER), lambda: io.BytesIO(data)) == state
    ports = {seen.headers["host"] for seen in registry.seen}
    assert len(ports) == 1
    (pool,) = client._transport._pools.values()
    (connections,) = [pool.pools[key] for key in pool.pools.keys() if key.key_scheme == "http"]  # noqa: SIM118
    assert connections.num_connections == 1


def test_a_blob_is_mounted_from_the_first_repository_that_has_it(
    registry: Registry, client: Client, reference: Reference, image: Image
) -> None:
    other = parse_reference(f"{registry.address}/other:1")
    state = client.push_blob(other, image.blob, lambda: io.BytesIO(b""), mount_from=("no/such", "lib/app"))
    assert state == "mounted"


def test_a_failed_mount_becomes_an_upload(client: Client, reference: Reference, image: Image) -> None:
    other = msgspec.structs.replace(reference, path="other")
    assert client.push_blob(other, image.blob, lambda: io.BytesIO(image.layer), mount_from=("no/such",)) == "pushed"


@pytest.mark.parametrize("action", [Garbage(b""), Status(503)], ids=str)
def test_a_broken_upload_starts_over(
    registry: Registry, client: Client, image: Image, action: Garbage | Status
) -> None:
    registry.faults.add(Fault("PUT .*/blobs/", action))
    named = parse_reference(f"{registry.address}/a:1")
    image.push(client, named)
    assert client.resolve(named).raw == image.manifest


def test_content_that_is_not_what_the_descriptor_says(registry: Registry, client: Client) -> None:
    named, blob = parse_reference(f"{registry.address}/a:1"), describe(b"0123456789", OCI_LAYER)
    with pytest.raises(InvalidArgument, match="provided digest did not match"):
        client.push_blob(named, blob, lambda: io.BytesIO(b"9876543210"))
    for chunk in (0, 4):
        with pytest.raises(DataLoss, match="has fewer bytes than the 10 of its descriptor"):
            client.push_blob(named, blob, lambda: io.BytesIO(b"0123"), chunk=chunk)


@pytest.mark.parametrize(
    ("action", "kind", "text"),
    [
        (Status(413), ResourceExhausted, "too large"),
        (Status(507), ResourceExhausted, "has no space left for blob"),
        (Header("location", ""), Unavailable, "opened an upload without saying where"),
        (Header("location", "gopher://x"), Unavailable, "redirect to"),
        (Status(405), OrlopError, "does not allow this for blob"),
    ],
    ids=str,
)
def test_bad_answers_to_a_push(
    registry: Registry, client: Client, action: Status | Header, kind: type[OrlopError], text: str
) -> None:
    registry.faults.add(Fault("POST .*/uploads/", action, count=None))
    named = parse_reference(f"{registry.address}/a:1")
    with pytest.raises(kind, match=text):
        client.push_blob(named, describe(b"x", OCI_LAYER), lambda: io.BytesIO(b"x"))


def test_tags_of_many_pages(registry: Registry, client: Client, reference: Reference, image: Image) -> None:
    registry.faults.add(Fault("GET .*/tags/list", Cut(5)))
    expected = sorted(["1", *(f"t{number}" for number in range(30))])
    for number in range(30):
        client.push_manifest(msgspec.structs.replace(reference, tag=f"t{number}"), image.manifest, OCI_MANIFEST)
    with pytest.raises(OrlopError):
        client.tags(reference)
    assert client.tags(reference) == expected
    with pytest.raises(NotFound):
        client.tags(msgspec.structs.replace(reference, path="none"))


def test_a_tag_list_without_end(registry: Registry, reference: Reference, client: Client) -> None:
    registry.faults.add(Fault("tags/list", Header("link", '</v2/lib/app/tags/list?n=1>; rel="next"'), count=None))
    with pytest.raises(ResourceExhausted, match=r"more than .* pages"):
        client.tags(reference)


def test_a_next_page_on_another_host_is_not_followed(
    registry: Registry, reference: Reference, client: Client, make_client: Callable[..., Client]
) -> None:
    registry.faults.add(Fault("tags/list", Header("link", '<http://other.invalid/>; rel="next"'), count=None))
    assert client.tags(reference) == ["1"]
